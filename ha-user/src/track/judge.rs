//! How many results in a row are believed.

/// Rise and fall: a state changes after so many results against it in a row. The first result of all is believed at
/// once, so that a node that starts does not take over by a path that does not work.
#[derive(Clone, Debug)]
pub struct Judge {
    rise: u8,
    fall: u8,
    good: Option<bool>,
    against: u8,
}

impl Judge {
    pub fn new(rise: u8, fall: u8) -> Self {
        Self { rise, fall, good: None, against: 0 }
    }

    /// Takes a result and says what counts now.
    pub fn hear(&mut self, good: bool) -> bool {
        let Some(counts) = self.good else {
            self.good = Some(good);
            return good;
        };
        if good == counts {
            self.against = 0;
            return counts;
        }
        self.against = self.against.saturating_add(1);
        let needed = if good { self.rise } else { self.fall };
        if self.against < needed {
            return counts;
        }
        self.good = Some(good);
        self.against = 0;
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first result counts; then it takes three failures in a row to fall and two successes in a row to rise.
    #[test]
    fn rise_and_fall() {
        let mut judge = Judge::new(2, 3);
        let results = [true, false, false, true, false, false, false, true, false, true, true];
        let counted = results.map(|good| judge.hear(good));
        assert_eq!(counted, [true, true, true, true, true, true, false, false, false, false, true]);
        assert!(!Judge::new(5, 5).hear(false));
    }

    /// One of each means that every result counts.
    #[test]
    fn one_is_enough() {
        let mut judge = Judge::new(1, 1);
        assert_eq!([true, false, true].map(|good| judge.hear(good)), [true, false, true]);
    }
}
