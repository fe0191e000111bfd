//! Removes the chunk that states the usage from a stream for a client that did not request it.
//!
//! The gateway requests the usage of every stream (`stream_options.include_usage`), and the backend
//! then sends one more chunk: `choices` is empty and `usage` an object. Clients that did not request it may
//! not expect it; some read the first choice of every chunk. So exactly this chunk is removed:
//!
//! - Azure's first event also has empty choices, but no usage. It stays, and so does a usage next to
//!   choices.
//! - The event is removed from its first line of data to the empty line after it. Comments before it stay.
//! - An event with any other field than data, or longer than [`EVENT_BYTES_MAX`], is not that chunk.
//! - Bytes that cannot be that chunk are never delayed. Only the beginning of an event that could be it is
//!   held until the next bytes decide; backends send events in one piece, so this is rare.

use super::frames::Part;
use crate::openai::response::usage::members::Members;

/// Removes the usage chunk from one event stream.
#[derive(Debug, Default)]
pub(super) struct UsageStripper {
    event: Event,
    /// The beginning of the current event, from earlier chunks.
    held: Vec<u8>,
    /// The removed event ended in a carriage return; a line feed that follows is removed as well.
    is_after_stripped: bool,
}

/// What happens to a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It passes unchanged.
    Unchanged,
    /// These bytes pass instead; possibly none.
    Replaced(Vec<u8>),
}

/// The event at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Event {
    /// No line of it except comments has begun.
    #[default]
    None,
    /// It may be the usage chunk; this many bytes of it were read.
    Possible { len: usize },
    /// It is not the usage chunk.
    Kept,
}

/// The work on one chunk.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    chunk: &'a [u8],
    /// Where the current event begins in this chunk.
    begin: usize,
    /// The chunk before this place was copied to `out` or removed.
    done: usize,
    /// `None` as long as nothing changes.
    out: Option<Vec<u8>>,
}

/// The longest possible usage chunk; real ones have a few hundred bytes.
const EVENT_BYTES_MAX: usize = 16 * 1_024;

impl UsageStripper {
    /// Reads `part`, which is followed by the last `rest_len` bytes of the chunk and has `len` bytes there.
    /// `members` has read the data of the event up to its end.
    #[inline]
    pub(super) fn read(
        &mut self,
        part: Part<'_>,
        len: usize,
        rest_len: usize,
        members: &Members,
        cut: &mut Cut<'_>,
    ) {
        let end = cut.chunk.len().saturating_sub(rest_len);
        let begin = end.saturating_sub(len);
        let is_after_stripped = std::mem::take(&mut self.is_after_stripped);
        match part {
            Part::Begin | Part::Data { .. } if self.event == Event::None => {
                cut.begin = begin;
                self.event = Event::Possible { len: 0 };
            }
            Part::Name { .. } | Part::Other { .. } => self.event = Event::Kept,
            // The line feed of an empty line that is gone.
            Part::Nothing if is_after_stripped && cut.chunk.get(begin) == Some(&b'\n') => {
                cut.leave_out(begin, end);
            }
            _ => {}
        }
        if let Event::Possible { len: before } = self.event {
            let len = before.saturating_add(len);
            let is_possible = len <= EVENT_BYTES_MAX && members.may_be_usage_chunk();
            self.event = if is_possible { Event::Possible { len } } else { Event::Kept };
        }
        if part == Part::EventEnd {
            self.end_event(members, cut, end);
        }
    }

    /// Whether the members of the current event matter.
    pub(super) fn is_reading(&self) -> bool {
        self.event != Event::Kept
    }

    /// The chunk was read; returns what happens to it.
    pub(super) fn end_chunk(&mut self, mut cut: Cut<'_>) -> Edit {
        if !matches!(self.event, Event::Possible { .. }) {
            self.release(&mut cut);
        } else if let Some(beginning) = cut.chunk.get(cut.begin..)
            && !beginning.is_empty()
        {
            self.held.extend_from_slice(beginning);
            cut.leave_out(cut.begin, cut.chunk.len());
        }
        cut.edit()
    }

    /// How many bytes are held back.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// The stream ended: the held bytes pass.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn end_event(&mut self, members: &Members, cut: &mut Cut<'_>, end: usize) {
        let is_possible = matches!(self.event, Event::Possible { .. });
        if is_possible && members.is_usage_chunk() {
            self.held.clear();
            cut.leave_out(cut.begin, end);
            self.is_after_stripped = true;
        }
        self.release(cut);
        self.event = Event::None;
    }

    /// The held bytes pass: before the whole chunk, because the event began before it.
    fn release(&mut self, cut: &mut Cut<'_>) {
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let after = cut.out.replace(held);
            cut.out.get_or_insert_default().extend(after.unwrap_or_default());
        }
    }
}

impl<'a> Cut<'a> {
    /// Nothing of `chunk` was read.
    pub(super) fn new(chunk: &'a [u8]) -> Self {
        Self { chunk, begin: 0, done: 0, out: None }
    }

    /// The bytes up to `begin` pass, those from there to `end` are removed.
    fn leave_out(&mut self, begin: usize, end: usize) {
        let kept = self.chunk.get(self.done..begin).unwrap_or_default();
        self.out.get_or_insert_default().extend_from_slice(kept);
        self.done = end;
    }

    fn edit(self) -> Edit {
        let Some(mut out) = self.out else { return Edit::Unchanged };
        out.extend_from_slice(self.chunk.get(self.done..).unwrap_or_default());
        Edit::Replaced(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::arithmetic_side_effects,
        clippy::string_slice,
        reason = "tests fail by panicking"
    )]

    use super::*;
    use crate::openai::random::Random;
    use crate::openai::response::stream::{EventStream, Features};
    use serde_json::Value;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const FILTER: &str =
        r#"data: {"id":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#;
    const FILTER_NULL: &str = r#"data: {"choices":[],"prompt_filter_results":[],"usage":null}"#;
    const DELTA: &str = r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"\"choices\":[],\"usage\":{}"}}],"usage":null}"#;
    const BESIDE: &str = r#"data: {"choices":[{"delta":{}}],"usage":{"total_tokens":1}}"#;
    const USAGE: &str = r#"data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":1,"total_tokens":1}}"#;
    const USAGE_FIRST: &str = r#"data:{"usage" : {"prompt_tokens":1}, "choices" : [ ] }"#;
    const USAGE_LINES: &str = "data: {\"choices\":[],\ndata: \"usage\":{}}";
    const DONE: &str = "data: [DONE]";

    fn stripper() -> EventStream {
        EventStream::new(Features { strips_usage: true, ..Features::default() })
    }

    fn strip_in<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut stripper = stripper();
        let mut out = Vec::new();
        for chunk in chunks {
            match stripper.push(chunk).edit {
                Edit::Unchanged => out.extend_from_slice(chunk),
                Edit::Replaced(bytes) => out.extend(bytes),
            }
        }
        out.extend(stripper.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    /// What is left of `stream`, having checked every cut into two, and single bytes.
    fn strip(stream: &str) -> String {
        let bytes = stream.as_bytes();
        let whole = strip_in([bytes]);
        for at in 0..=bytes.len() {
            assert_eq!(strip_in([&bytes[..at], &bytes[at..]]), whole, "{stream:?} cut at {at}");
        }
        assert_eq!(strip_in(bytes.chunks(1)), whole, "{stream:?} byte by byte");
        whole
    }

    #[test]
    fn exactly_the_usage_chunk_goes() {
        for ends in ["\n", "\r\n", "\r"] {
            let block = |event: &str| format!("{event}\n\n").replace('\n', ends);
            for usage in [USAGE, USAGE_FIRST, USAGE_LINES] {
                let before = [FILTER, FILTER_NULL, DELTA, BESIDE].map(block).concat();
                let (usage, done) = (block(usage), block(DONE));
                assert_eq!(strip(&format!("{before}{usage}{done}")), format!("{before}{done}"));
                assert_eq!(strip(&format!("{usage}{usage}{usage}")), "");
                assert_eq!(strip(&format!("\u{feff}{usage}{done}")), format!("\u{feff}{done}"));
                let comment = format!(": ping{ends}");
                assert_eq!(strip(&format!("{comment}{usage}")), comment);
            }
        }
    }

    #[test]
    fn everything_else_stays() {
        for kept in [
            "",
            "\n\n\n",
            ": comment\n\n",
            "data: x\n\n",
            "data\n\n",
            "data:\n\ndata: {}\n\n",
            "data: {\"choices\":[],\"usage\":{}",
            "data: {\"choices\":[],\"usage\":{}}",
            "data: {\"choices\":[],\"usage\":{}}\n",
            "data: {\"choices\":[],\"usage\":{}}}\n\n",
            "data: {\"choices\":[],\"usage\":{}} {}\n\n",
            "data: {\"choices\":[],\"usage\":{}\n\n",
            "data: {\"choices\":[],\"usage\":{},\"usage\":null}\n\n",
            "data: {\"choices\":[],\"usage\":null,\"usage\":{}}\n\n",
            "data: {\"choices\":[1],\"usage\":{},\"choices\":[]}\n\n",
            "data: {\"choices\":[],\"usage\":[]}\n\n",
            "data: {\"choices\":{},\"usage\":{}}\n\n",
            "data: {\"choices\":null,\"usage\":{}}\n\n",
            "data: {\"choices\":[[]],\"usage\":{}}\n\n",
            "data: {\"usage\":{}}\n\n",
            "data: {\"x\":{\"choices\":[],\"usage\":{}}}\n\n",
            "data: [{\"choices\":[],\"usage\":{}}]\n\n",
            "event: x\ndata: {\"choices\":[],\"usage\":{}}\n\n",
            "data: {\"choices\":[],\"usage\":{}}\nid: 7\n\n",
            "{\"choices\":[],\"usage\":{}}\n\n",
            "dat: {\"choices\":[],\"usage\":{}}\n\n",
            "data : {\"choices\":[],\"usage\":{}}\n\n",
        ] {
            assert_eq!(strip(kept), kept);
        }
    }

    #[test]
    fn what_cannot_be_the_usage_chunk_is_never_delayed_nor_copied() {
        let begun = r#"data: {"id":"c","usage":null,"choices":"#;
        for event in [DELTA, BESIDE, FILTER_NULL, DONE, ": ping", "event: x", begun] {
            let mut stripper = stripper();
            assert_eq!(
                stripper.push(format!("{event}\n\n").as_bytes()).edit,
                Edit::Unchanged,
                "{event}"
            );
            // Without its end, too.
            assert_eq!(stripper.push(event.as_bytes()).edit, Edit::Unchanged, "{event}");
            assert_eq!(stripper.finish(), b"");
        }
        let mut stripper = stripper();
        let (head, tail) = DELTA.split_at(DELTA.find("[{").unwrap() + 2);
        assert_eq!(stripper.push(head.as_bytes()).edit, Edit::Unchanged);
        assert_eq!(stripper.push(tail.as_bytes()).edit, Edit::Unchanged);
    }

    #[test]
    fn a_beginning_that_could_be_the_usage_chunk_waits_for_the_next_bytes() {
        let mut stripper = stripper();
        assert_eq!(
            stripper.push(b": ok\n\ndata: {\"choi").edit,
            Edit::Replaced(b": ok\n\n".to_vec())
        );
        let rest = b"ces\":[{}]}\n\n";
        let whole = b"data: {\"choices\":[{}]}\n\n";
        assert_eq!(stripper.push(rest).edit, Edit::Replaced(whole.to_vec()));
        assert_eq!(stripper.push(b"data: {").edit, Edit::Replaced(Vec::new()));
        assert_eq!(stripper.finish(), b"data: {");
    }

    #[test]
    fn no_more_than_an_event_of_bounded_length_is_held() {
        let mut stripper = stripper();
        let mut out = 0;
        for chunk in [&b"data: {\"x\":\""[..]].into_iter().chain([&[b'a'; 1_000][..]; 1_000]) {
            out += match stripper.push(chunk).edit {
                Edit::Unchanged => chunk.len(),
                Edit::Replaced(bytes) => bytes.len(),
            };
            assert!(stripper.held_bytes() <= EVENT_BYTES_MAX);
        }
        assert_eq!(out, 12 + 1_000_000);
        let pad = "a".repeat(EVENT_BYTES_MAX);
        let long = format!("data: {{\"pad\":\"{pad}\",\"choices\":[],\"usage\":{{}}}}\n\n");
        assert_eq!(strip_in([long.as_bytes()]), long);
        assert_eq!(strip_in(long.as_bytes().chunks(999)), long);
    }

    #[test]
    fn any_chunking_of_random_streams_loses_only_the_usage_chunks() {
        let events =
            [FILTER, FILTER_NULL, DELTA, BESIDE, USAGE, USAGE_FIRST, USAGE_LINES, DONE, ": ping"];
        let mut random = Random::new(3);
        for ends in ["\n\n", "\r\n\r\n"] {
            let blocks: Vec<String> = events
                .iter()
                .map(|event| event.replace('\n', &ends[..ends.len() / 2]) + ends)
                .collect();
            for _ in 0..1_500 {
                let picked: Vec<&String> =
                    (0..random.below(8)).map(|_| &blocks[random.below(blocks.len())]).collect();
                let stream: String = picked.iter().map(|block| block.as_str()).collect();
                let left: String = picked
                    .iter()
                    .filter(|block| !is_usage(block))
                    .map(|block| block.as_str())
                    .collect();
                assert_eq!(strip_in(random.cut(stream.as_bytes())), left, "{stream:?}");
            }
        }
    }

    /// By a parser of whole events.
    fn is_usage(block: &str) -> bool {
        let data: String = block.lines().filter_map(|line| line.strip_prefix("data:")).collect();
        let Ok(event) = serde_json::from_str::<Value>(&data) else { return false };
        event["choices"].as_array().is_some_and(Vec::is_empty) && event["usage"].is_object()
    }

    #[test]
    fn any_chunking_of_any_bytes_gives_the_same() {
        let pieces: [&[u8]; 18] = [
            b"data: ",
            b"data",
            b":",
            b"{",
            b"}",
            b"\"choices\":[]",
            b"\"choices\":[",
            b",",
            b"\"usage\":{}",
            b"\"usage\":null",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"\"",
            b"\\",
            b"\xff",
            b"{\"choices\":[],\"usage\":{}}",
        ];
        let mut random = Random::new(5);
        for _ in 0..4_000 {
            let bytes = random.join(&pieces, 20);
            let whole = strip_in([bytes.as_slice()]);
            for _ in 0..4 {
                assert_eq!(
                    strip_in(random.cut(&bytes)),
                    whole,
                    "{:?}",
                    String::from_utf8_lossy(&bytes)
                );
            }
            assert_eq!(strip_in(bytes.chunks(1)), whole, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
