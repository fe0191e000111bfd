//! What a backend does with one attempt.

use crate::host::HeaderList;

/// What a backend does with one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    start: Start,
    headers: HeaderList,
    chunks: Vec<Vec<u8>>,
    trailers: HeaderList,
    ending: Ending,
    delay_ms: u64,
    gap_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Response,
    ConnectFailure,
    Reset,
    Silence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Complete,
    Reset,
    Stall,
}

/// One thing that comes from a backend.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Head {
        headers: HeaderList,
        end: bool,
    },
    Chunk {
        bytes: Vec<u8>,
        end: bool,
    },
    Trailers {
        trailers: HeaderList,
    },
    ConnectFailure,
    Reset,
    /// Not from the backend: the router's time for the attempt is over.
    PerTryTimeout,
}

impl Script {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            start: Start::Response,
            headers: vec![(b":status".to_vec(), status.to_string().into_bytes())],
            chunks: vec![b"{}".to_vec()],
            trailers: Vec::new(),
            ending: Ending::Complete,
            delay_ms: 0,
            gap_ms: 0,
        }
    }

    pub(crate) fn ok() -> Self {
        Self::status(200).header("content-type", "application/json")
    }

    pub(crate) fn throttled(retry_after_ms: u64) -> Self {
        Self::status(429).header("retry-after-ms", &retry_after_ms.to_string())
    }

    pub(crate) fn events(chunks: &[&str]) -> Self {
        let chunks = chunks.iter().map(|chunk| chunk.as_bytes().to_vec()).collect();
        let head = Self::status(200).header("content-type", "text/event-stream");
        Self { chunks, ..head }
    }

    pub(crate) fn connect_failure() -> Self {
        Self { start: Start::ConnectFailure, ..Self::ok() }
    }

    pub(crate) fn reset() -> Self {
        Self { start: Start::Reset, ..Self::ok() }
    }

    /// Never answers.
    pub(crate) fn silence() -> Self {
        Self { start: Start::Silence, ..Self::ok() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        self
    }

    /// A header of arbitrary bytes, in front of all others.
    pub(crate) fn raw_header(mut self, name: &[u8], value: &[u8]) -> Self {
        self.headers.insert(0, (name.to_vec(), value.to_vec()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| key != name.as_bytes());
        self
    }

    pub(crate) fn body(self, body: &str) -> Self {
        Self { chunks: vec![body.as_bytes().to_vec()], ..self }
    }

    /// The head ends the stream.
    pub(crate) fn no_body(self) -> Self {
        Self { chunks: Vec::new(), ..self }
    }

    /// One more chunk of the body.
    pub(crate) fn chunk(mut self, bytes: &[u8]) -> Self {
        self.chunks.push(bytes.to_vec());
        self
    }

    /// Ends with this trailer.
    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        self
    }

    /// The connection breaks after the last chunk.
    pub(crate) fn then_reset(self) -> Self {
        Self { ending: Ending::Reset, ..self }
    }

    /// Nothing comes after the last chunk.
    pub(crate) fn then_stall(self) -> Self {
        Self { ending: Ending::Stall, ..self }
    }

    /// The first byte comes after this time.
    pub(crate) fn after_ms(self, delay_ms: u64) -> Self {
        Self { delay_ms, ..self }
    }

    /// The chunks come this far apart.
    pub(crate) fn every_ms(self, gap_ms: u64) -> Self {
        Self { gap_ms, ..self }
    }

    /// All of it, each with its time from the attempt's beginning.
    pub(crate) fn timeline(self) -> Vec<(u64, Event)> {
        let mut at = self.delay_ms;
        match self.start {
            Start::ConnectFailure => return vec![(at, Event::ConnectFailure)],
            Start::Reset => return vec![(at, Event::Reset)],
            Start::Silence => return Vec::new(),
            Start::Response => {}
        }
        let completes = self.ending == Ending::Complete && self.trailers.is_empty();
        let end = completes && self.chunks.is_empty();
        let mut events = vec![(at, Event::Head { headers: self.headers, end })];
        let last = self.chunks.len();
        for (number, bytes) in self.chunks.into_iter().enumerate() {
            at += self.gap_ms;
            events.push((at, Event::Chunk { bytes, end: completes && number + 1 == last }));
        }
        if self.ending == Ending::Complete && !completes {
            events.push((at + self.gap_ms, Event::Trailers { trailers: self.trailers }));
        } else if self.ending == Ending::Reset {
            events.push((at + self.gap_ms, Event::Reset));
        }
        events
    }
}
