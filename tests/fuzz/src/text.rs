//! Small texts: secrets, requests of the command line, and what it is answered.

use ha_user::config::secret;
use ha_user::ipc::{REQUEST_BYTES_MAX, Reply, Request};

/// What is read as secrets is written and read as the same.
pub fn secret(input: &[u8]) {
    let Ok(keys) = secret::parse(input) else { return };
    assert!((1..=2).contains(&keys.len()) && keys.iter().all(|key| key.secret.len() == secret::SECRET_LEN));
    assert_eq!(secret::parse(secret::emit(&keys).as_bytes()), Ok(keys));
}

/// What is understood is written and understood as the same, unless what was left out makes it too long; a refusal says something.
pub fn request(input: &[u8]) {
    match Request::parse(input) {
        Ok(request) => {
            let line = serde_json::to_vec(&request).expect("a request is JSON");
            match Request::parse(&line) {
                Ok(again) => assert_eq!(again, request),
                Err(words) => assert!(line.len() > REQUEST_BYTES_MAX, "{words}"),
            }
        }
        Err(words) => assert!(!words.is_empty()),
    }
}

/// A reply that is understood can be written again, and shown.
pub fn reply(input: &[u8]) {
    let Ok(reply) = serde_json::from_slice::<Reply>(input) else { return };
    let line = serde_json::to_vec(&reply).expect("a reply is JSON");
    match &reply {
        Reply::Flows(lines) => lines.iter().for_each(|line| drop(line.to_string())),
        Reply::Status(_)
        | Reply::Done
        | Reply::HandOver(_)
        | Reply::Maintenance(_)
        | Reply::Reload(_)
        | Reply::Stopping { .. }
        | Reply::Error(_) => {}
    }
    // Numbers that are no numbers become null on the way, which not every field takes.
    let _ = serde_json::from_slice::<Reply>(&line);
}
