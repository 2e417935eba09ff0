//! The configuration: text by an administrator, right or wrong.

use ha_user::config::{Choice, ConfigError, check_text, secret};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Stands for the file of secrets in an input, as in the packaged configuration.
const SECRET_FILE: &str = "/etc/twinwall/secret";

/// A directory with a secret, so that a right configuration is one.
static FILES: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    secret::generate(&directory.path().join("secret"), false).expect("a secret");
    directory
});

/// A file is taken, or every reason why not is a sentence with its place in it; a second look says the same.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let secret = FILES.path().join("secret");
    let text = text.replace(SECRET_FILE, secret.to_str().expect("a path of text"));
    let choice = Choice { file: "fuzz.toml".into(), node: Some("fw1".to_owned()), socket: None };
    let lines = text.lines().count() + 1;
    let report = match check_text(&text, &choice) {
        Ok((resolved, report)) => {
            assert!(usize::from(resolved.node.0) < resolved.nodes.len());
            assert!(!resolved.vips.is_empty() && resolved.vips.len() <= 256);
            assert!(resolved.vips.iter().all(|vip| usize::from(vip.interface.0) < resolved.interfaces.len()));
            assert!(!resolved.sync.keys.is_empty());
            assert_eq!(report.errors(), 0);
            report
        }
        Err(ConfigError::Invalid(report)) => {
            assert!(report.errors() > 0);
            report
        }
        Err(other) => panic!("no file was read: {other}"),
    };
    for problem in &report.problems {
        assert!(problem.line >= 1 && problem.line <= lines && problem.column >= 1, "{problem:?} of {lines} lines");
        assert!(!problem.message.is_empty() && !problem.to_string().is_empty());
    }
}
