//! Callbacks in any order: whatever a host calls, with whatever can be touched then, nothing panics.

use crate::envoy::{CLIENT_SECRET, Envoy, Request, Script};
use crate::failover::two_tiers;
use crate::host::{Context, HeaderList, Module, Process, Role, Root, install, with};
use crate::random::Random;
use std::collections::BTreeMap;

const SEEDS: u64 = 300;
const STEPS: usize = 150;

const ROOTS: [(u32, Role); 2] = [(1, Role::Attempt), (2, Role::Gateway)];

/// A worker whose callbacks come from a list of numbers.
struct Chaos {
    random: Random,
    contexts: Vec<u32>,
    last: u32,
}

impl Chaos {
    fn begin(seed: u64, process: &std::sync::Arc<Process>) -> Self {
        install(std::sync::Arc::clone(process));
        Module::load();
        let gateway = two_tiers(
            r#""failover": {"max_wait": "1s", "max_attempts": 4, "first_byte_timeout": "1s"},
               "circuit_breaker": {"rules": [{"failure_condition": {"count": 1, "interval": "1s"},
                   "trip_duration": "1s"}]}"#,
        );
        for (root, text) in [(1, r#"{"role": "attempt"}"#), (2, &*gateway)] {
            let configuration = text.as_bytes().to_vec();
            let plugin = Root { configuration, tick_at_ms: None, period_ms: 0 };
            with(|state| state.roots.insert(root, plugin));
            Module::create(root, 0);
            assert!(Module::start(root) && Module::configure(root, text.len()));
        }
        Self { random: Random::new(seed), contexts: Vec::new(), last: 10 }
    }

    fn create(&mut self) {
        self.last += 1;
        let (root, role) = self.random.pick(&ROOTS);
        // Attempts join the stream of some gateway, or of none.
        let stream = if role == Role::Gateway { self.last } else { self.some_context() };
        let cluster = self.random.pick(&["a", "b", "x"]).as_bytes().to_vec();
        let properties = BTreeMap::from([("xds\0cluster_name".to_owned(), cluster)]);
        let context = Context { properties, ..Context::new(root, stream, role) };
        with(|state| state.contexts.insert(self.last, context));
        Module::create(self.last, root);
        self.contexts.push(self.last);
    }

    fn some_context(&mut self) -> u32 {
        if self.contexts.is_empty() { 0 } else { self.random.pick(&self.contexts) }
    }

    /// Opens and closes what the filters may touch.
    fn shuffle(&mut self, id: u32) {
        let request = self.random.pick(&[
            Request::chat(),
            Request::chat_v1(),
            Request::new("GET", "/openai/models"),
            Request::new("\u{1}", "\u{2}"),
        ]);
        let response = self.random.pick(&[
            response("200", "application/json", ""),
            response("200", "text/event-stream", ""),
            response("429", "text/html", "50"),
            response("500", "", ""),
            response("400", "application/json", "x"),
            response("nonsense", "", "-1"),
        ]);
        let bodies: [&[u8]; 4] =
            [b"", b"data: {\"error\":{}}\n\n", b"{\"model\":\"gpt\"}", b"\xff\xfe{{{"];
        let (up, down) = (self.random.pick(&bodies), self.random.pick(&bodies));
        let open = self.random.below(16);
        let flags = self.random.pick(&[0_u64, 16_384]).to_le_bytes().to_vec();
        with(|state| {
            let context = state.contexts.get_mut(&id).unwrap();
            context.request_headers = (open & 1 > 0).then_some(request.headers);
            context.response_headers = (open & 2 > 0).then_some(response);
            context.request_body = (open & 4 > 0).then(|| up.to_vec());
            context.response_body = (open & 8 > 0).then(|| down.to_vec());
            context.properties.insert("response\0flags".to_owned(), flags);
        });
    }

    fn step(&mut self, process: &Process) {
        if self.contexts.is_empty() || self.random.below(6) == 0 {
            return self.create();
        }
        let id = self.some_context();
        self.shuffle(id);
        let size = self.random.pick(&[0, 1, 20, 100_000]);
        let end = self.random.below(2) == 0;
        match self.random.below(13) {
            0..=2 => drop(Module::request_headers(id, size, end)),
            3..=4 => drop(Module::request_body(id, size, end)),
            5..=6 => drop(Module::response_headers(id, size, end)),
            7..=8 => drop(Module::response_body(id, size, end)),
            9 => Module::log(id),
            10 => self.delete(id),
            11 => {
                let step = self.random.pick(&[1, 500, 2_000, -1_000, -3_600_000, 3_600_000]);
                process.step_clock(step);
            }
            _ => {
                let (root, _) = self.random.pick(&ROOTS);
                Module::tick(root);
            }
        }
        with(|state| state.deferred.clear());
    }

    fn delete(&mut self, id: u32) {
        Module::delete(id);
        self.contexts.retain(|other| *other != id);
        with(|state| state.contexts.remove(&id));
    }
}

fn response(status: &str, content_type: &str, retry_after: &str) -> HeaderList {
    [(":status", status), ("content-type", content_type), ("retry-after", retry_after)]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

#[test]
fn no_order_of_callbacks_panics() {
    for seed in 0..SEEDS {
        let process = Process::new(&format!("callbacks in any order, seed {seed}"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut chaos = Chaos::begin(seed, &process);
                for _ in 0..STEPS {
                    chaos.step(&process);
                }
                while let Some(id) = chaos.contexts.first().copied() {
                    chaos.delete(id);
                }
                let leaked = process.logged().contains(CLIENT_SECRET);
                assert!(!leaked, "{}: a credential was logged", process.scenario);
            });
        });
    }
}

/// SDKs of other filters met these in production, behind filters that reply instead of the router. For an unknown
/// stream the filter holds nothing and calls nothing.
#[test]
fn callbacks_of_contexts_that_are_not_known_are_let_through() {
    let process = Process::new("contexts that are not known");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut chaos = Chaos::begin(1, &process);
            let (known, never, rootless, orphan) = (10, 900, 901, 902);
            chaos.last = known - 1;
            chaos.create();
            chaos.delete(known);
            // A root that never was, and one whose configuration was refused.
            Module::create(rootless, 800);
            Module::create(801, 0);
            assert!(!Module::configure(801, 0));
            Module::create(orphan, 801);
            with(|state| state.calls.clear());
            for id in [known, never] {
                let end = id == never;
                assert_eq!(Module::request_headers(id, 1, end), 0);
                assert_eq!(Module::request_body(id, 1, end), 0);
                assert_eq!(Module::request_trailers(id, 1), 0);
                assert_eq!(Module::response_headers(id, 1, end), 0);
                assert_eq!(Module::response_body(id, 1, end), 0);
                assert_eq!(Module::response_trailers(id, 1), 0);
                Module::log(id);
                Module::delete(id);
                assert!(!Module::configure(id, 1));
            }
            assert_eq!(with(|state| state.calls.clone()), BTreeMap::new());
            Module::tick(never);
            // A context of an unknown or refused root accepts every callback, and so does an id that is created twice.
            for id in [rootless, orphan, orphan] {
                Module::create(id, if id == rootless { 800 } else { 801 });
                Module::request_headers(id, 1, true);
                Module::response_headers(id, 1, true);
                Module::log(id);
                Module::delete(id);
                Module::delete(id);
            }
        });
    });
}

/// The same in an order that Envoy has, with everything else left to chance.
#[test]
fn whatever_backends_and_clients_do_every_request_ends() {
    for seed in 0..60 {
        let process = Process::new(&format!("requests by chance, seed {seed}"));
        let settings = two_tiers(r#""failover": {"max_wait": "1s", "first_byte_timeout": "1s"}"#);
        crate::envoy::worker(&process, &settings, |envoy| by_chance(seed, &process, envoy));
    }
}

fn by_chance(seed: u64, process: &Process, envoy: &mut Envoy) {
    let mut random = Random::new(seed);
    let scripts = [
        Script::ok(),
        Script::ok().after_ms(300),
        Script::throttled(200),
        Script::status(500),
        Script::status(400),
        Script::connect_failure(),
        Script::reset(),
        Script::silence(),
        Script::events(&["data: {\"id\":1}\n\n", "data: [DONE]\n\n"]).every_ms(200),
        Script::events(&["data: {\"i", "d\":1}\n\n"]).every_ms(700).then_reset(),
        Script::events(&[": comment\n\n"]).every_ms(5),
    ];
    let mut open = Vec::new();
    for _ in 0..60 {
        let backend = random.pick(&["a", "b"]);
        process.script(backend, [random.pick(&scripts)]);
        open.push(envoy.send(random.pick(&[Request::chat(), Request::chat_v1()])));
        envoy.pass(random.next() % 400);
        if random.below(4) == 0 {
            let id = open.swap_remove(random.below(open.len()));
            envoy.cancel(id);
        }
        if random.below(10) == 0 {
            process.step_clock(random.pick(&[-5_000, 5_000]));
        }
    }
    envoy.pass(60_000);
    for id in open {
        assert!(!envoy.is_open(id), "{}: request {id} hangs", process.scenario);
        assert_ne!(envoy.take(id).status(), 0, "{}: request {id}", process.scenario);
    }
}
