//! One worker of Envoy: connection manager and router, in virtual time.

mod message;
mod request_path;
mod response_path;
mod router;
mod script;
mod stream;

pub(crate) use message::{CLIENT_SECRET, End, Request, Response};
pub(crate) use script::{Event, Script};

use crate::host::{Module, Process, Root, install, with};
use std::collections::BTreeMap;
use std::sync::Arc;
use stream::Stream;

/// More ticks and events than any scenario has: the filter is in a loop.
const STEPS_MAX: u32 = 1_000_000;

/// One worker of Envoy.
pub(crate) struct Envoy {
    process: Arc<Process>,
    gateway: u32,
    attempt: u32,
    last_id: u32,
    streams: BTreeMap<u32, Stream>,
    /// What comes from backends, by time and order.
    events: BTreeMap<(u64, u64), (u32, u32, Event)>,
    last_number: u64,
    /// `num_retries` of the route.
    pub(crate) retries_max: u32,
    /// A filter behind the gateway replies to the next request instead of the router, with this status and
    /// these headers.
    pub(crate) filter_behind: Option<(u16, Vec<(&'static str, &'static str)>)>,
    /// What Envoy says of a target without a cluster.
    pub(crate) no_cluster: &'static str,
    /// Which cluster the route's matcher has for a target.
    pub(crate) clusters: BTreeMap<String, String>,
}

/// Runs `act` on a new worker of `process`, which is a thread of its own.
pub(crate) fn worker<R: Send>(
    process: &Arc<Process>,
    configuration: &str,
    act: impl FnOnce(&mut Envoy) -> R + Send,
) -> R {
    std::thread::scope(|scope| {
        let run = || {
            let mut envoy = Envoy::boot(process);
            assert!(envoy.configure(configuration), "refused: {}", process.logged());
            let result = act(&mut envoy);
            envoy.shut_down();
            result
        };
        scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Envoy {
    /// Loads the module into this thread and starts the attempts' plugin.
    pub(crate) fn boot(process: &Arc<Process>) -> Self {
        install(Arc::clone(process));
        Module::load();
        let clusters = ["a", "b", "c", "d", "e"].map(|name| (name.to_owned(), name.to_owned()));
        let mut envoy = Self {
            process: Arc::clone(process),
            gateway: 0,
            attempt: 0,
            last_id: 0,
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            last_number: 0,
            retries_max: 10,
            filter_behind: None,
            no_cluster: "cluster_not_found",
            clusters: clusters.into(),
        };
        envoy.attempt = envoy.plugin(r#"{"role": "attempt"}"#).expect("the attempts' plugin");
        envoy
    }

    /// Configures the gateway, or configures it again: requests in flight keep the old root, which
    /// is deleted when the last of them ended. Whether the configuration was accepted.
    pub(crate) fn configure(&mut self, configuration: &str) -> bool {
        let Some(root) = self.plugin(configuration) else { return false };
        let old = std::mem::replace(&mut self.gateway, root);
        self.drop_root_without_streams(old);
        true
    }

    /// Configures a further gateway in the same VM, as another listener has it. Requests go there from
    /// now on. [`Self::switch_to`] with the returned value sends them to the first one again.
    pub(crate) fn configure_beside(&mut self, configuration: &str) -> u32 {
        let root = self.plugin(configuration).expect("a good configuration");
        self.switch_to(root)
    }

    /// Sends requests to the gateway `root`, and returns the gateway that they went to before.
    pub(crate) fn switch_to(&mut self, root: u32) -> u32 {
        std::mem::replace(&mut self.gateway, root)
    }

    fn plugin(&mut self, configuration: &str) -> Option<u32> {
        let id = self.id();
        let size = configuration.len();
        let configuration = configuration.as_bytes().to_vec();
        let root = Root { configuration, tick_at_ms: None, period_ms: 0 };
        with(|state| state.roots.insert(id, root));
        Module::create(id, 0);
        if Module::start(id) && Module::configure(id, size) {
            return Some(id);
        }
        self.drop_root_without_streams(id);
        None
    }

    fn drop_root_without_streams(&mut self, root: u32) {
        let idle = with(|state| {
            state.roots.contains_key(&root)
                && !state.contexts.values().any(|context| context.root == root)
        });
        if idle && root != self.gateway && root != self.attempt {
            Module::delete(root);
            with(|state| state.roots.remove(&root));
        }
    }

    fn id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends a request and waits until it is answered, or nothing happens any more. A timer that is left
    /// over does not make time pass.
    pub(crate) fn ask(&mut self, request: Request) -> Response {
        let id = self.send(request);
        self.run_while(u64::MAX, |envoy| envoy.is_open(id));
        self.run_while(self.process.monotonic_ms(), |_| true);
        self.take(id)
    }

    /// What the client of a request got; forgets the request.
    pub(crate) fn take(&mut self, id: u32) -> Response {
        let stream = self.streams.remove(&id).expect("no such request");
        if !stream.is_done() {
            let response = stream.response.clone();
            self.streams.insert(id, stream);
            return response;
        }
        stream.response
    }

    /// What the client of a request got so far.
    pub(crate) fn response(&self, id: u32) -> &Response {
        &self.streams[&id].response
    }

    /// Whether a request is still running.
    pub(crate) fn is_open(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| !stream.is_done())
    }

    /// Lets the next thing happen that is due now; whether there was one.
    pub(crate) fn step(&mut self) -> bool {
        let due =
            self.events.first_entry().filter(|next| next.key().0 <= self.process.monotonic_ms());
        let Some((stream, attempt, event)) = due.map(|next| next.remove()) else { return false };
        self.receive(stream, attempt, event);
        true
    }

    /// How many parts of a body the last attempt of a request brought.
    pub(crate) fn chunks(&self, id: u32) -> usize {
        self.streams[&id].chunks
    }

    /// Lets time pass until nothing more happens. Ticks that are left when every request is done have no
    /// effect, and time need not pass for them.
    pub(crate) fn run(&mut self) {
        self.run_until(u64::MAX);
    }

    /// Lets this much time pass.
    pub(crate) fn pass(&mut self, by_ms: u64) {
        let until = self.process.monotonic_ms() + by_ms;
        self.run_until(until);
        self.process.advance_to(until);
    }

    fn run_until(&mut self, limit_ms: u64) {
        self.run_while(limit_ms, |_| true);
    }

    fn run_while(&mut self, limit_ms: u64, goes_on: impl Fn(&Self) -> bool) {
        for _ in 0..STEPS_MAX {
            if !goes_on(self) {
                return;
            }
            let event = self.events.keys().next().copied();
            let is_idle = event.is_none() && self.streams.values().all(Stream::is_done);
            if is_idle && limit_ms == u64::MAX {
                return;
            }
            let tick = with(|state| {
                let ticks = state.roots.iter();
                ticks.filter_map(|(id, root)| Some((root.tick_at_ms?, *id))).min()
            });
            match (event, tick) {
                (Some((at, _)), tick)
                    if at <= limit_ms && tick.is_none_or(|(tick, _)| at <= tick) =>
                {
                    self.process.advance_to(at);
                    if let Some((_, (stream, attempt, event))) = self.events.pop_first() {
                        self.receive(stream, attempt, event);
                    }
                }
                (_, Some((at, root))) if at <= limit_ms => {
                    self.process.advance_to(at);
                    self.tick(root);
                }
                _ => return,
            }
        }
        panic!("{}: it never comes to rest", self.process.scenario);
    }

    fn tick(&mut self, root: u32) {
        Module::tick(root);
        let now_ms = self.process.monotonic_ms();
        with(|state| {
            if let Some(root) = state.roots.get_mut(&root) {
                root.tick_at_ms = (root.period_ms > 0).then(|| now_ms + root.period_ms);
            }
        });
        self.apply_deferred();
    }

    fn schedule(&mut self, at_ms: u64, stream: u32, attempt: u32, event: Event) {
        self.last_number += 1;
        self.events.insert((at_ms, self.last_number), (stream, attempt, event));
    }

    /// Ends what is still open, and checks that the filter did nothing that it must not.
    fn shut_down(&mut self) {
        let open: Vec<u32> = self.streams.keys().copied().collect();
        for id in open {
            self.cancel(id);
        }
        let violations = with(|state| std::mem::take(&mut state.violations));
        assert!(violations.is_empty(), "{}: {violations:#?}", self.process.scenario);
    }
}
