//! The scenarios in each mode in which they mean something.

use ha_common::sync::Mode;

pub const MODES: [Mode; 3] = [Mode::Ftfw, Mode::Alarm, Mode::Notrack];

/// The mode of this name.
pub fn named(name: &str) -> Mode {
    MODES.into_iter().find(|mode| mode.name() == name).unwrap()
}

/// Makes a test for each mode named behind a scenario `fn(Mode)` of this module: `scenario::mode`.
macro_rules! in_modes {
    ($($scenario:ident: $($mode:ident),+;)+) => {
        $(mod $scenario {
            $(#[test]
            fn $mode() {
                super::$scenario(crate::modes::named(stringify!($mode)));
            })+
        })+
    };
}
pub(crate) use in_modes;
