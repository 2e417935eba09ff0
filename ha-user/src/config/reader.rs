//! Walks the parsed TOML: each key is taken once, wrong values and left-over keys become problems.

use super::error::{At, Found, FoundList, Problems};
use super::spelling::{did_you_mean, nearest};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Why a value is refused: what was found, and the remedy.
#[derive(Debug)]
pub struct Refusal {
    pub message: String,
    pub remedy: String,
}

impl Refusal {
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// Turns a TOML value into ours.
pub trait Read<T>: Fn(&DeValue<'_>) -> Result<T, Refusal> {}
impl<T, F: Fn(&DeValue<'_>) -> Result<T, Refusal>> Read<T> for F {}

/// What must be, and what must not be.
pub struct Lists<T> {
    pub accept: Option<FoundList<T>>,
    pub ignore: Option<FoundList<T>>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self { accept: None, ignore: None }
    }
}

/// One table of the file while it is read.
pub struct Section<'a> {
    table: &'a DeTable<'a>,
    pub at: At,
    /// Every key that was asked for: what is not here is unknown.
    known: Vec<&'static str>,
    /// The keys are names chosen by the user: none is unknown.
    any_name: bool,
}

impl<'a> Section<'a> {
    pub fn root(document: &'a Spanned<DeTable<'a>>) -> Self {
        // A span of the whole file would point to its first line, which is where a missing table is reported.
        Self {
            table: document.get_ref(),
            at: At { span: document.span(), key: String::new() },
            known: Vec::new(),
            any_name: false,
        }
    }

    /// The value of `key`, if it is there and right.
    pub fn optional<T>(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        read: impl Read<T>,
    ) -> Option<Found<T>> {
        let value = self.value(key)?;
        let at = self.at_key(key, value.span());
        take(problems, at, value.get_ref(), &read)
    }

    /// As [`Self::optional`], but absence is an error that shows `example`.
    pub fn required<T>(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        example: &str,
        read: impl Read<T>,
    ) -> Option<Found<T>> {
        self.require_one_of(problems, &[key], &format!("add: {key} = {example}"));
        self.optional(problems, key, read)
    }

    /// A filled array whose elements are read one by one; wrong elements are reported and left out.
    pub fn list<T>(
        &mut self,
        problems: &mut Problems<'_>,
        key: &'static str,
        read: impl Read<T>,
    ) -> Option<FoundList<T>> {
        let value = self.value(key)?;
        let at = self.at_key(key, value.span());
        let Some(array) = value.get_ref().as_array() else {
            problems.error(&at, found_instead(value.get_ref(), "a list"), format!("write {key} = [ … ]"));
            return None;
        };
        if array.is_empty() {
            problems.error(&at, "is an empty list", "write at least one element, or remove the key for the default");
            return None;
        }
        let items = array.iter().enumerate().filter_map(|(index, item)| {
            let at = At { span: item.span(), key: format!("{}[{index}]", at.key) };
            take(problems, at, item.get_ref(), &read)
        });
        let value = items.collect();
        Some(Found { value, at })
    }

    /// A list of what is accepted, or a table with one or both of the lists `accept` and `ignore`.
    pub fn lists<T>(&mut self, problems: &mut Problems<'_>, key: &'static str, read: impl Read<T>) -> Lists<T> {
        let is_table = self.table.get(key).is_some_and(|value| value.get_ref().as_table().is_some());
        if !is_table {
            return Lists { accept: self.list(problems, key, read), ignore: None };
        }
        let Some(mut section) = self.table(problems, key) else { return Lists::default() };
        let remedy = format!("write {key} = [ … ], or {key} = {{ ignore = [ … ] }}");
        section.require_one_of(problems, &["accept", "ignore"], &remedy);
        let lists =
            Lists { accept: section.list(problems, "accept", &read), ignore: section.list(problems, "ignore", &read) };
        section.finish(problems);
        lists
    }

    /// The table `[key]`.
    pub fn table(&mut self, problems: &mut Problems<'_>, key: &'static str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        let at = self.at_key(key, value.span());
        as_section(problems, at, value.get_ref(), &format!("begin a table with [{key}]"))
    }

    /// The tables `[[key]]`.
    pub fn tables(&mut self, problems: &mut Problems<'_>, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let at = self.at_key(key, value.span());
        let remedy = format!("begin each with [[{key}]]");
        let Some(array) = value.get_ref().as_array() else {
            problems.error(&at, found_instead(value.get_ref(), "a list of tables"), remedy);
            return Vec::new();
        };
        let sections = array.iter().enumerate().filter_map(|(index, item)| {
            let at = At { span: item.span(), key: format!("{}[{index}]", at.key) };
            as_section(problems, at, item.get_ref(), &remedy)
        });
        sections.collect()
    }

    /// All sub-tables of a table whose keys are names chosen by the user, in name order, with the place of the name.
    pub fn named_tables(&mut self, problems: &mut Problems<'_>) -> Vec<(Found<String>, Section<'a>)> {
        self.any_name = true;
        let entries = self.table.iter().filter_map(|(name, value)| {
            let key = format!("{}.{}", self.at.key, name.get_ref());
            let at = At { span: value.span(), key: key.clone() };
            let section = as_section(problems, at, value.get_ref(), &format!("begin a table with [{key}]"))?;
            Some((Found { value: name.get_ref().to_string(), at: At { span: name.span(), key } }, section))
        });
        entries.collect()
    }

    /// All values of a table whose keys are names chosen by the user, in name order, with the place of the name; wrong
    /// values are reported and left out.
    pub fn named_values<T>(
        &mut self,
        problems: &mut Problems<'_>,
        read: impl Read<T>,
    ) -> Vec<(Found<String>, Found<T>)> {
        self.any_name = true;
        let entries = self.table.iter().filter_map(|(name, value)| {
            let key = format!("{}.{}", self.at.key, name.get_ref());
            let found = take(problems, At { span: value.span(), key: key.clone() }, value.get_ref(), &read)?;
            Some((Found { value: name.get_ref().to_string(), at: At { span: name.span(), key } }, found))
        });
        entries.collect()
    }

    /// Where `key` stands, or this table when it is absent.
    pub fn place(&self, key: &str) -> At {
        let span = self.table.get(key).map_or_else(|| self.at.span.clone(), Spanned::span);
        self.at_key(key, span)
    }

    /// Is the key there, or one that will be reported as a misspelling of it? One mistake, one error.
    pub fn has_or_misspells(&self, key: &str) -> bool {
        self.table.contains_key(key) || self.table.keys().any(|other| nearest(other.get_ref(), [key]).is_some())
    }

    /// Reports that none of `keys` is there, at the place of the first.
    pub fn require_one_of(&self, problems: &mut Problems<'_>, keys: &[&str], remedy: &str) {
        if let Some(first) = keys.first()
            && !keys.iter().any(|key| self.has_or_misspells(key))
        {
            problems.error(&self.place(first), "is missing", remedy);
        }
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, problems: &mut Problems<'_>) {
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if self.any_name || self.known.contains(&name) {
                continue;
            }
            let remedy = did_you_mean(name, self.known.iter().copied())
                .unwrap_or_else(|| format!("remove it; known here: {}", self.known.join(", ")));
            problems.error(&self.at_key(name, key.span()), "is not a known key", remedy);
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.get(key)
    }

    fn at_key(&self, key: &str, span: Range<usize>) -> At {
        let key = if self.at.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at.key) };
        At { span, key }
    }
}

fn take<T>(problems: &mut Problems<'_>, at: At, value: &DeValue<'_>, read: &impl Read<T>) -> Option<Found<T>> {
    match read(value) {
        Ok(value) => Some(Found { value, at }),
        Err(refusal) => {
            problems.error(&at, refusal.message, refusal.remedy);
            None
        }
    }
}

fn as_section<'a>(problems: &mut Problems<'_>, at: At, value: &'a DeValue<'a>, remedy: &str) -> Option<Section<'a>> {
    match value.as_table() {
        Some(table) => Some(Section { table, at, known: Vec::new(), any_name: false }),
        None => {
            problems.error(&at, found_instead(value, "a table"), remedy);
            None
        }
    }
}

/// `found the integer 3 instead of a string`.
pub fn found_instead(value: &DeValue<'_>, wanted: &str) -> String {
    let found = match value {
        DeValue::String(text) => format!("the string \"{text}\""),
        DeValue::Integer(number) => format!("the integer {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(truth) => format!("{truth}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    format!("found {found} instead of {wanted}")
}
