//! How a target reads its input: every sequence of bytes is one, and no change of a byte makes nonsense of what follows.

/// One step of an input with several: `kind (1) | length (2, little endian) | body`. A length beyond the end is cut.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub kind: u8,
    pub body: Bytes<'a>,
}

/// The record as bytes of an input.
pub fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let body = body.get(..usize::from(length)).unwrap_or(body);
    [&[kind], &length.to_le_bytes()[..], body].concat()
}

/// Bytes that are read from the front; behind the end all are zero.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        for (to, from) in array.iter_mut().zip(self.take(N)) {
            *to = *from;
        }
        array
    }

    pub fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number that is mostly small, and the largest ones as well: one byte up to 191, or a whole word.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=191 => u64::from(small),
            192..=223 => u64::from(self.u32()),
            224..=239 => u64::MAX - u64::from(self.u8()),
            240.. => self.u64(),
        }
    }

    /// The records, at most `max` of them.
    pub fn records(mut self, max: usize) -> impl Iterator<Item = Record<'a>> {
        std::iter::from_fn(move || {
            let kind = *self.0.first()?;
            self.take(1);
            let length = usize::from(self.u16());
            Some(Record { kind, body: Bytes(self.take(length)) })
        })
        .take(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records read as they were written, a cut one ends the input, and behind the end all is zero.
    #[test]
    fn records_are_read() {
        let mut input = record(7, &[1, 2, 3]);
        input.extend(record(9, &[240, 1, 0, 0, 0, 0, 0, 0, 1]));
        input.pop();
        let mut records = Bytes(&input).records(10);
        let mut first = records.next().unwrap();
        assert_eq!((first.kind, first.body.u16(), first.body.u32(), first.body.u8()), (7, 0x0201, 3, 0));
        assert_eq!(records.next().unwrap().body.number(), 1);
        assert!(records.next().is_none());
        assert_eq!(Bytes(&input).records(1).count(), 1);
    }
}
