//! The nearest known name to a misspelt one.

/// The candidate closest to `name`, when it is close enough to be what was meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .min_by_key(|&(edits, _)| edits)
        .filter(|&(edits, candidate)| edits <= 1 + candidate.len().min(name.len()) / 4)
        .map(|(_, candidate)| candidate)
}

/// ` (did you mean NAME?)`, or nothing.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(name, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// Names longer than this are compared by their beginning: the table below stays small.
const CHARS_MAX: usize = 64;

/// Edits (insert, delete, replace, swap of neighbours; case costs nothing) that turn `a` into `b`: the
/// optimal string alignment distance.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| -> Vec<char> { text.chars().take(CHARS_MAX).flat_map(char::to_lowercase).collect() };
    let (a, b) = (letters(a), letters(b));
    let mut before_last: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replace = last[j] + usize::from(from != to);
            let mut edits = replace.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                edits = edits.min(before_last[j - 1] + 1);
            }
            row.push(edits);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Typical slips find their name, other words find none.
    #[test]
    fn slips_are_recognised() {
        let keys = ["vhid", "interface", "addresses", "password", "password_file"];
        assert_eq!(nearest("adresses", keys), Some("addresses"));
        assert_eq!(nearest("vhdi", keys), Some("vhid"));
        assert_eq!(nearest("Interface", keys), Some("interface"));
        assert_eq!(nearest("passwort", keys), Some("password"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
    }
}
