//! Why this node should not be master at present: named causes with weights, which add up.

use ha_common::time::Instant;
use std::sync::Arc;

/// Most demotions at one time; the configuration and the operator together cannot name more.
pub const DEMOTIONS_MAX: usize = TRACKED_MAX + OPERATOR_MAX;
/// Most causes that a configuration may track.
pub const TRACKED_MAX: usize = 48;
/// Most causes that an operator may set at one time.
pub const OPERATOR_MAX: usize = 16;
/// The heaviest single demotion: what an advert's skew can carry at most.
pub const WEIGHT_MAX: u8 = 254;

/// One reason, as long as it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demotion {
    /// `script:bgp`, `interface:eth3`, `path:157.159.40.129`, `conntrack`, `file:/run/x`, `operator:works`.
    pub cause: Arc<str>,
    /// 1 to [`WEIGHT_MAX`].
    pub weight: u8,
    /// What was seen, in a few words for people.
    pub detail: String,
    pub since: Instant,
}

/// What the demotions weigh together.
pub fn total_weight(demotions: &[Demotion]) -> u16 {
    demotions.iter().fold(0, |total, demotion| total.saturating_add(u16::from(demotion.weight)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights add up beyond a byte, and as many of the heaviest as are possible do not overflow.
    #[test]
    fn weights_add_up() {
        let heaviest = Demotion { cause: "x".into(), weight: WEIGHT_MAX, detail: String::new(), since: Instant(0) };
        assert_eq!(total_weight(&[]), 0);
        assert_eq!(total_weight(&[heaviest.clone(), heaviest.clone()]), 508);
        assert_eq!(total_weight(&vec![heaviest; DEMOTIONS_MAX]), 254 * 64);
    }
}
