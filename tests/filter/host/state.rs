//! One worker: its contexts, and what each of them may touch right now.

use super::process::Process;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Headers in their order; names and values are bytes.
pub(crate) type HeaderList = Vec<(Vec<u8>, Vec<u8>)>;

/// A filter's response to a callback: it keeps what it was shown.
pub(crate) const PAUSE: u32 = 1;

pub(crate) const OK: u32 = 0;
pub(crate) const NOT_FOUND: u32 = 1;
pub(crate) const BAD_ARGUMENT: u32 = 2;
pub(crate) const CAS_MISMATCH: u32 = 8;
pub(crate) const INTERNAL_FAILURE: u32 = 10;

/// Calls that Envoy never refuses for a live stream, and that a filter cannot replace: a
/// refused reply or resume can only leave the client to its timeout, a refused timer likewise.
const NEVER_REFUSED: [&str; 6] = [
    "send_local_response",
    "continue_stream",
    "set_tick_period",
    "set_effective_context",
    "log",
    "clock_time_get",
];

/// Which filter a context is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Gateway,
    Attempt,
}

/// A plugin of the VM.
pub(crate) struct Root {
    pub(crate) configuration: Vec<u8>,
    /// When it ticks next, in monotonic milliseconds.
    pub(crate) tick_at_ms: Option<u64>,
    pub(crate) period_ms: u64,
}

/// One filter of one stream. A map or buffer that is `None` cannot be touched now.
pub(crate) struct Context {
    pub(crate) root: u32,
    pub(crate) stream: u32,
    pub(crate) role: Role,
    pub(crate) request_headers: Option<HeaderList>,
    pub(crate) response_headers: Option<HeaderList>,
    pub(crate) request_trailers: Option<HeaderList>,
    pub(crate) response_trailers: Option<HeaderList>,
    pub(crate) request_body: Option<Vec<u8>>,
    pub(crate) response_body: Option<Vec<u8>>,
    /// Set by the host for this filter alone.
    pub(crate) properties: BTreeMap<String, Vec<u8>>,
}

impl Context {
    /// A context of which nothing can be touched yet.
    pub(crate) fn new(root: u32, stream: u32, role: Role) -> Self {
        Self {
            root,
            stream,
            role,
            request_headers: None,
            response_headers: None,
            request_trailers: None,
            response_trailers: None,
            request_body: None,
            response_body: None,
            properties: BTreeMap::new(),
        }
    }

    fn map(&mut self, map: u32) -> Option<&mut HeaderList> {
        match map {
            0 => self.request_headers.as_mut(),
            1 => self.request_trailers.as_mut(),
            2 => self.response_headers.as_mut(),
            3 => self.response_trailers.as_mut(),
            _ => None,
        }
    }
}

/// What the host does after the callback, because a filter asked for it.
pub(crate) enum Deferred {
    Reply { context: u32, headers: HeaderList, body: Vec<u8> },
    Resume { context: u32, is_request: bool },
    ClearRoute { stream: u32 },
}

/// One worker.
pub(crate) struct State {
    pub(crate) process: Arc<Process>,
    pub(crate) current: u32,
    pub(crate) roots: BTreeMap<u32, Root>,
    pub(crate) contexts: BTreeMap<u32, Context>,
    /// Filter state of each stream: what its filters wrote with `set_property`.
    pub(crate) filter_state: BTreeMap<u32, BTreeMap<String, Vec<u8>>>,
    pub(crate) deferred: Vec<Deferred>,
    pub(crate) calls: BTreeMap<&'static str, u32>,
    /// Counts down to the host call that is refused.
    pub(crate) refuse_in: Option<u32>,
    pub(crate) refused: Option<&'static str>,
    /// What no filter should do.
    pub(crate) violations: Vec<String>,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// Makes this thread a worker of `process`.
pub(crate) fn install(process: Arc<Process>) {
    let state = State {
        process,
        current: 0,
        roots: BTreeMap::new(),
        contexts: BTreeMap::new(),
        filter_state: BTreeMap::new(),
        deferred: Vec::new(),
        calls: BTreeMap::new(),
        refuse_in: None,
        refused: None,
        violations: Vec::new(),
    };
    STATE.with(|cell| *cell.borrow_mut() = Some(state));
}

/// The worker that this thread is. Never held while the filter runs.
pub(crate) fn with<R>(visit: impl FnOnce(&mut State) -> R) -> R {
    STATE.with(|cell| visit(cell.borrow_mut().as_mut().expect("this thread is no worker")))
}

/// The scenario, also outside of a worker.
pub(crate) fn scenario() -> String {
    STATE.with(|cell| match cell.try_borrow() {
        Ok(state) => {
            state.as_ref().map_or_else(String::new, |state| state.process.scenario.clone())
        }
        Err(_) => "(in a host call)".to_owned(),
    })
}

impl State {
    /// Notes a host call; an error is the status with which it is refused.
    pub(crate) fn enter(&mut self, call: &'static str) -> Result<(), u32> {
        *self.calls.entry(call).or_default() += 1;
        if NEVER_REFUSED.contains(&call) {
            return Ok(());
        }
        match &mut self.refuse_in {
            Some(0) => {
                self.refuse_in = None;
                self.refused = Some(call);
                Err(INTERNAL_FAILURE)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(crate) fn violation(&mut self, what: &str) -> u32 {
        self.violations.push(format!("context {}: {what}", self.current));
        BAD_ARGUMENT
    }

    /// The header map `map` of the current context, while it may be touched.
    pub(crate) fn map(&mut self, map: u32) -> Result<&mut HeaderList, u32> {
        let current = self.current;
        let can_be_touched =
            self.contexts.get_mut(&current).is_some_and(|context| context.map(map).is_some());
        if !can_be_touched {
            return Err(self.violation(&format!("header map {map} outside of its phase")));
        }
        let context = self.contexts.get_mut(&current).ok_or(BAD_ARGUMENT)?;
        context.map(map).ok_or(BAD_ARGUMENT)
    }

    /// The buffer `buffer`, while it may be touched.
    pub(crate) fn buffer(&mut self, buffer: u32) -> Result<&mut Vec<u8>, u32> {
        let current = self.current;
        if buffer == 7 {
            let root = self.roots.get_mut(&current).ok_or(BAD_ARGUMENT)?;
            return Ok(&mut root.configuration);
        }
        let found = self.contexts.get(&current).is_some_and(|context| match buffer {
            0 => context.request_body.is_some(),
            1 => context.response_body.is_some(),
            _ => false,
        });
        if !found {
            return Err(self.violation(&format!("buffer {buffer} outside of its phase")));
        }
        let context = self.contexts.get_mut(&current).ok_or(BAD_ARGUMENT)?;
        let bytes =
            if buffer == 0 { &mut context.request_body } else { &mut context.response_body };
        bytes.as_mut().ok_or(BAD_ARGUMENT)
    }

    /// The root of the current context.
    pub(crate) fn current_root(&self) -> u32 {
        self.contexts.get(&self.current).map_or(self.current, |context| context.root)
    }
}

pub(crate) fn header<'h>(headers: &'h HeaderList, name: &str) -> Option<&'h [u8]> {
    headers.iter().find(|(key, _)| key == name.as_bytes()).map(|(_, value)| &**value)
}
