//! Reads a JSON tree into checked values and collects every problem instead of stopping at the first.
//!
//! A [`Node`] is a value that knows its path. Its accessors note a problem and return `None`. Reading then
//! continues with a default or without the value. That is harmless, because a tree with any problem
//! gives no configuration at all. [`Fields`] are the members of an object. They know which keys were
//! read, so every other key is a problem.
//!
//! A key may be spelled `trip_duration` or `tripDuration`, as in Envoy's own JSON, or `trip-duration`.
//! So most keys of Azure API Management can be copied unchanged, from its JSON and from its XML policies.
//!
//! Code that runs for a hundred keys is neither generic nor inlined: otherwise the module, which every
//! worker loads, would have a copy for each.

use super::error::{ConfigError, ConfigErrors};
use super::json::{Json, quoted};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// The problems found so far.
#[derive(Default)]
pub(super) struct Problems(Cell<Vec<ConfigError>>);

impl Problems {
    /// Notes a problem at `path`.
    pub(super) fn note(&self, path: &str, problem: impl Into<String>) {
        let mut errors = self.0.take();
        errors.push(ConfigError { path: path.to_owned(), problem: problem.into() });
        self.0.set(errors);
    }

    /// `value` when there was no problem.
    pub(super) fn unless_any<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        match (ConfigErrors::new(self.0.into_inner()), value) {
            (Some(errors), _) => Err(errors),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(ConfigError {
                path: String::new(),
                problem: "cannot be read, and the cause is unknown".to_owned(),
            }
            .into()),
        }
    }
}

/// A value and its place.
pub(super) struct Node<'a> {
    path: String,
    json: &'a Json,
    problems: &'a Problems,
}

impl<'a> Node<'a> {
    /// The whole tree.
    pub(super) fn root(json: &'a Json, problems: &'a Problems) -> Self {
        Self { path: String::new(), json, problems }
    }

    /// Where the value is.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The value itself.
    pub(super) fn json(&self) -> &'a Json {
        self.json
    }

    /// Notes a problem of this value.
    pub(super) fn problem(&self, problem: impl Into<String>) {
        self.problems.note(&self.path, problem);
    }

    /// Notes that the value is not one of the `allowed` ones, and shows it.
    pub(super) fn expected(&self, allowed: impl Display) {
        self.note_unexpected(&allowed);
    }

    #[inline(never)]
    fn note_unexpected(&self, allowed: &dyn Display) {
        self.problem(format!("found {}, allowed are {allowed}", self.json));
    }

    /// A text. `allowed` describes it for the error.
    pub(super) fn text(&self, allowed: &str) -> Option<&'a str> {
        match self.json {
            Json::Text(text) => Some(text),
            _ => {
                self.expected(allowed);
                None
            }
        }
    }

    /// A text for which `is_valid` holds. `allowed` describes such texts for the error.
    pub(super) fn text_that(&self, allowed: &str, is_valid: fn(&str) -> bool) -> Option<&'a str> {
        let text = self.text(allowed)?;
        if is_valid(text) {
            return Some(text);
        }
        self.expected(allowed);
        None
    }

    /// A whole number in `range`; `5.0` is one.
    pub(super) fn whole<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + Into<u64> + TryFrom<u64>,
    {
        let number = self.whole_between((*range.start()).into(), (*range.end()).into())?;
        T::try_from(number).ok()
    }

    #[inline(never)]
    fn whole_between(&self, low: u64, high: u64) -> Option<u64> {
        match self.json {
            // The cast is exact: the number is whole and lies in a range of integers.
            Json::Number(number)
                if number.fract() == 0.0 && *number >= low as f64 && *number <= high as f64 =>
            {
                Some(*number as u64)
            }
            _ => {
                self.expected(format_args!("whole numbers from {low} to {high}"));
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        match self.json {
            Json::Bool(flag) => Some(*flag),
            _ => {
                self.expected("true and false");
                None
            }
        }
    }

    /// `"on"` or `"off"`. Native YAML turns the bare words into booleans, so these count too.
    pub(super) fn switch(&self) -> Option<bool> {
        match self.json {
            Json::Bool(flag) => Some(*flag),
            Json::Text(word) if word == "on" => Some(true),
            Json::Text(word) if word == "off" => Some(false),
            _ => {
                self.expected("\"on\" and \"off\"");
                None
            }
        }
    }

    /// One of the named `choices`.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let (_, choice) = choices.get(self.position_in(&names)?)?;
        Some(*choice)
    }

    fn position_in(&self, names: &[&str]) -> Option<usize> {
        let found = match self.json {
            Json::Text(text) => names.iter().position(|name| name == text),
            _ => None,
        };
        if found.is_none() {
            let verb = if names.len() == 1 { "is" } else { "are" };
            let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            self.problem(format!("found {}, allowed {verb} {}", self.json, names.join(", ")));
        }
        found
    }

    /// A list whose length is in `size`; items with a problem are left out. `what` names the items.
    pub(super) fn list<T>(
        &self,
        size: RangeInclusive<usize>,
        what: &str,
        mut read: impl FnMut(&Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let (low, high) = (size.start(), size.end());
        match self.json {
            Json::List(items) if size.contains(&items.len()) => {
                let mut values = Vec::new();
                for (position, json) in items.iter().enumerate() {
                    let path = format!("{}[{position}]", self.path);
                    values.extend(read(&Node { path, json, problems: self.problems }));
                }
                Some(values)
            }
            _ => {
                self.expected(format_args!("lists of {low} to {high} {what}"));
                None
            }
        }
    }

    /// An object with at most `len_max` members whose keys are names; members with a problem are left
    /// out. `what` names the members.
    pub(super) fn named<T>(
        &self,
        len_max: usize,
        what: &str,
        read: impl Fn(&str, &Self) -> Option<T>,
    ) -> Option<BTreeMap<String, T>> {
        let Json::Object(members) = self.json else {
            self.expected(format_args!("objects of {what} by name"));
            return None;
        };
        if members.len() > len_max {
            self.problem(format!("found {} {what}, allowed are {len_max}", members.len()));
            return None;
        }
        let fields = self.fields(members);
        fields.note_repeated_keys();
        let mut values = BTreeMap::new();
        for (name, json) in members {
            let node = Node { path: fields.child_path(name), json, problems: self.problems };
            if let Some(value) = read(name, &node) {
                values.insert(name.clone(), value);
            }
        }
        Some(values)
    }

    /// An object. Every key that `read` does not ask for is a problem.
    pub(super) fn object<T>(&self, read: impl FnOnce(&mut Fields<'a>) -> Option<T>) -> Option<T> {
        let Json::Object(members) = self.json else {
            self.expected("objects");
            return None;
        };
        let mut fields = self.fields(members);
        fields.note_repeated_keys();
        let value = read(&mut fields);
        fields.note_unknown_keys();
        value
    }

    fn fields(&self, members: &'a [(String, Json)]) -> Fields<'a> {
        Fields {
            path: self.path.clone(),
            members: members.iter().map(Member::of).collect(),
            problems: self.problems,
            offered: Vec::new(),
            recognised: Vec::new(),
        }
    }
}

/// One member of an object.
struct Member<'a> {
    /// The key in our own spelling.
    key: String,
    /// The key as it was given.
    name: &'a str,
    json: &'a Json,
}

impl<'a> Member<'a> {
    fn of((name, json): &'a (String, Json)) -> Self {
        Self { key: snake_case(name), name, json }
    }
}

/// The members of an object.
pub(super) struct Fields<'a> {
    path: String,
    members: Vec<Member<'a>>,
    problems: &'a Problems,
    /// The keys to suggest when another is found.
    offered: Vec<&'static str>,
    /// Keys that are known without being suggested.
    recognised: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The value at `key`, read by `read`; `None` when it is absent or has a problem.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Option<T> {
        read(&self.offered(key)?)
    }

    /// The value at `key`, which is known from now on.
    #[inline(never)]
    fn offered(&mut self, key: &'static str) -> Option<Node<'a>> {
        self.offered.push(key);
        self.find(key)
    }

    /// Like [`Self::optional`], but an absent key is a problem.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.problem_at(key, "missing, but required");
        }
        self.optional(key, read)
    }

    /// Like [`Self::optional`], with API Management's name for the same thing.
    pub(super) fn optional_or_apim<T>(
        &mut self,
        key: &'static str,
        apim_key: &'static str,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Option<T> {
        self.recognised.push(apim_key);
        if self.has(key) && self.has(apim_key) {
            self.problem_at(apim_key, format!("means the same as `{key}`; give only one of them"));
        }
        let present = if self.has(key) { key } else { apim_key };
        self.offered.push(key);
        read(&self.find(present)?)
    }

    /// Notes `why` when `key` is given: a known name that this version does not accept.
    pub(super) fn refused(&mut self, key: &'static str, why: &str) {
        self.recognised.push(key);
        if self.has(key) {
            self.problem_at(key, why);
        }
    }

    /// Whether `key` is given, with or without a problem.
    #[inline(never)]
    pub(super) fn has(&self, key: &str) -> bool {
        self.members.iter().any(|member| member.key == key)
    }

    /// Notes a problem of the value at `key`, under the spelling that was given.
    pub(super) fn problem_at(&self, key: &str, problem: impl Into<String>) {
        let given = self.members.iter().find(|member| member.key == key);
        let name = given.map_or(key, |member| member.name);
        self.problems.note(&self.child_path(name), problem);
    }

    /// Notes a problem of the object itself.
    pub(super) fn problem(&self, problem: impl Into<String>) {
        self.problems.note(&self.path, problem);
    }

    fn find(&self, key: &str) -> Option<Node<'a>> {
        let mut given = self.members.iter().filter(|member| member.key == key);
        let &Member { name, json, .. } = given.next()?;
        if let Some(other) = given.find(|other| other.name != name) {
            let problem = format!("means the same as `{name}`; give only one of them");
            self.problems.note(&self.child_path(other.name), problem);
        }
        Some(Node { path: self.child_path(name), json, problems: self.problems })
    }

    fn note_repeated_keys(&self) {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for Member { name, .. } in &self.members {
            let count = times.get(*name).map_or(1, |count| count.saturating_add(1));
            times.insert((*name).to_owned(), count);
            // A key that occurs five times is one problem, noted at its second place.
            if count == 2 {
                self.problems.note(&self.child_path(name), "given more than once; keep one");
            }
        }
    }

    fn note_unknown_keys(&self) {
        for Member { key, name, .. } in &self.members {
            let mut known = self.offered.iter().chain(&self.recognised);
            if known.any(|known| known == key) {
                continue;
            }
            let problem = match closest(key, &self.offered) {
                Some(key) => format!("unknown key, did you mean `{key}`?"),
                None => format!("unknown key, allowed are {}", self.offered.join(", ")),
            };
            self.problems.note(&self.child_path(name), problem);
        }
    }

    fn child_path(&self, name: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
            return format!("{}[{}]", self.path, quoted(name));
        }
        let dot = if self.path.is_empty() { "" } else { "." };
        format!("{}{dot}{name}", self.path)
    }
}

/// A longer name in a path is quoted and cut.
const NAME_BYTES_MAX: usize = 64;

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(if c == '-' { '_' } else { c.to_ascii_lowercase() });
    }
    snake
}

/// The key that `name` was probably meant to be: at most two typing errors away, and fewer than
/// half of the name.
fn closest<'k>(name: &str, keys: &[&'k str]) -> Option<&'k str> {
    let distances = keys.iter().map(|key| (typing_errors(name, key), *key));
    let (distance, key) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2 && distance.saturating_mul(2) < key.len()).then_some(key)
}

/// The Levenshtein distance, row by row.
fn typing_errors(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (deletions, c) in from.chars().take(NAME_BYTES_MAX).enumerate() {
        let mut left = deletions.saturating_add(1);
        let mut next = vec![left];
        for (d, pair) in to.chars().zip(row.windows(2)) {
            let &[diagonal, above] = pair else { continue };
            let replaced = diagonal.saturating_add(usize::from(c != d));
            left = replaced.min(above.saturating_add(1)).min(left.saturating_add(1));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Reads `text` with `read` and returns the value and the errors, one per line.
    fn read<T>(text: &str, read: impl FnOnce(&Node<'_>) -> Option<T>) -> Result<T, String> {
        let json = Json::parse(text.as_bytes()).unwrap();
        let problems = Problems::default();
        let value = read(&Node::root(&json, &problems));
        problems.unless_any(value).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_whole_number_may_arrive_as_a_double() {
        assert_eq!(read("5.0", |node| node.whole(0_u8..=100)), Ok(5));
        assert_eq!(read("3e2", |node| node.whole(0_u32..=300)), Ok(300));
        assert_eq!(read("-0.0", |node| node.whole(0_u8..=1)), Ok(0));
    }

    #[test]
    fn a_number_outside_or_with_a_fraction_is_refused() {
        for text in ["1.5", "101", "-1", "1e300", "\"5\"", "null"] {
            let errors = read(text, |node| node.whole(0_u8..=100)).unwrap_err();
            assert!(errors.ends_with("allowed are whole numbers from 0 to 100"), "{errors}");
        }
    }

    #[test]
    fn all_spellings_of_a_key_are_the_same_key() {
        let read_it =
            |text| read(text, |node| node.object(|f| f.optional("trip_it", |n| n.whole(0_u8..=9))));
        assert_eq!(read_it(r#"{"trip_it": 1}"#), Ok(1));
        assert_eq!(read_it(r#"{"tripIt": 2}"#), Ok(2));
        assert_eq!(read_it(r#"{"trip-it": 3}"#), Ok(3));
        assert_eq!(
            read_it(r#"{"tripIt": 1, "trip_it": 1}"#),
            Err("trip_it: means the same as `tripIt`; give only one of them".to_owned())
        );
    }

    #[test]
    fn every_problem_is_noted_at_its_place() {
        let errors = read(r#"{"a": [1, "x", 300], "prioritty": 1, "zzz": 1, "b c": 1}"#, |node| {
            node.object(|fields| {
                fields.optional("priority", |n| n.flag());
                fields.required("name", |n| n.text("names"));
                fields.optional("a", |n| n.list(0..=3, "numbers", |n| n.whole(0_u8..=9)))
            })
        });
        let expected = [
            "the configuration has 6 errors",
            "name: missing, but required",
            "a[1]: found \"x\", allowed are whole numbers from 0 to 9",
            "a[2]: found 300, allowed are whole numbers from 0 to 9",
            "prioritty: unknown key, did you mean `priority`?",
            "zzz: unknown key, allowed are priority, name, a",
            "[\"b c\"]: unknown key, allowed are priority, name, a",
        ];
        assert_eq!(errors.unwrap_err(), expected.join("\n"));
    }

    #[test]
    fn a_key_given_five_times_is_one_problem() {
        let errors = read(r#"{"a": 1, "a": 1, "a": 1, "a": 1, "a": 1}"#, |node| {
            node.object(|fields| fields.optional("a", |n| n.whole(0_u8..=9)))
        });
        assert_eq!(errors, Err("a: given more than once; keep one".to_owned()));
    }

    #[test]
    fn typing_errors_are_counted() {
        assert_eq!(typing_errors("weigth", "weight"), 2);
        assert_eq!(typing_errors("", "abc"), 3);
        assert_eq!(typing_errors("abc", ""), 3);
        assert_eq!(typing_errors("same", "same"), 0);
    }
}
