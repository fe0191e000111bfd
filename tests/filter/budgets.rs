//! Every budget equals the sum of a list of all uses, whatever workers, backends, clients and clocks do.
//!
//! The list is the reference. An entry is what one request used, and the second in which it was reserved. The use is
//! known from the script of its last backend and from how much of it came before the client left. A record is right
//! when it has the sum of the entries of its last sixty-one seconds. The workers agree on when the clock moves, so
//! within a round it stands still and their order does not matter.

mod books;
mod scripts;

use self::books::{Books, Entry, Kept, Made};
use self::scripts::{Behaviour, Phase};
use crate::envoy::{Envoy, Request, Script, worker};
use crate::host::{Process, Seen};
use crate::random::Random;
use crate::usage::first_estimate;
use spillway::policy::keys::Keys;
use spillway::policy::time::Timestamp;
use spillway::policy::tokens::budget::{self, BudgetSettings, ProvisionedSettings};
use spillway::policy::tokens::consumer::{
    self, ConsumerSettings, Period, Quota, SlotSecret, unlisted_slot,
};
use spillway::policy::tokens::estimate::{Estimate, UsedTokens};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard};

const WORKERS: u64 = 8;
const EPOCHS: u64 = 125;
const ROUNDS: u64 = 10;
const REQUESTS_PER_ROUND: u64 = 10;

/// What the backends `b` and `c`, listed consumers and the others may take in a minute.
const LIMITS: [(&str, u64); 3] = [("b", 40_000), ("c", 45_000), ("consumer", 60_000)];
const BURST_TOKENS: u64 = 60_000;
const OUTPUT_WEIGHT: u64 = 3;
/// The thousandths of the burst below which a request is admitted.
const ROOM_PERMILLE: u64 = 980;

const NOTHING: UsedTokens = UsedTokens { prompt_tokens: 0, cached_tokens: 0, completion_tokens: 0 };

pub(crate) const SETTINGS: &str = r#"{
    "pools": [
        {"name": "gpt", "backends": [
            {"name": "a", "host": "a.example", "priority": 1, "provisioned": {"ptus": 100,
                "input_tokens_per_minute_per_ptu": 12000, "output_token_weight": 3, "burst_tokens": 60000}},
            {"name": "b", "host": "b.example", "priority": 2, "limits": {"tokens_per_minute": 40000}},
            {"name": "d", "host": "d.example", "priority": 3}],
         "circuit_breaker": {"rules": []},
         "failover": {"retry_budget": {"percent": 100, "min_per_second": 10000}}},
        {"name": "mini", "backends": [
            {"name": "c", "host": "c.example",
                "limits": {"tokens_per_minute": 45000, "requests_per_minute": 720}},
            {"name": "e", "host": "e.example", "priority": 2}],
         "circuit_breaker": {"rules": []},
         "failover": {"max_wait": "50ms", "retry_budget": {"percent": 100, "min_per_second": 10000}}}],
    "consumers": {
        "header": "x-consumer",
        "default": {"tokens_per_minute": 60000},
        "by_name": {
            "minute": {"tokens_per_minute": 60000},
            "quota": {"quota": {"tokens": 1000000000000, "period": "month"}},
            "free": {}}}}"#;
const CONSUMERS: [&str; 6] = ["minute", "quota", "free", "free", "who", "anyone"];

/// Sixty times the unit of a token, so that the thousandths of a bucket of one token count exactly.
const EXACT: ProvisionedSettings = ProvisionedSettings {
    tokens_per_minute: NonZeroU64::MIN,
    burst_tokens: 1,
    output_token_weight_permille: 1_000 * OUTPUT_WEIGHT as u32,
};

fn limit(name: &str) -> u64 {
    LIMITS.iter().find(|(known, _)| *known == name).map_or(u64::MAX, |(_, limit)| *limit)
}

/// A request and what it is expected to use.
struct Kind {
    request: Request,
    estimate: Estimate,
}

/// An image and a maximum: then nothing is learned, and every worker expects the same.
fn kinds() -> Vec<Kind> {
    let mut all = Vec::new();
    for max in [100_000, 20, 100, 600] {
        for (model, stream) in [("gpt", true), ("gpt", false), ("gpt", true), ("mini", true)] {
            let body = format!(
                r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"hi"}},
                {{"type":"image_url","image_url":{{"url":"data:image/png;base64,AAAA"}}}}]}}],
                "max_tokens":{max},"stream":{stream}}}"#
            );
            let path =
                format!("/openai/deployments/{model}/chat/completions?api-version=2024-10-21");
            let request = Request::new("POST", &path).body(&body);
            all.push(Kind { estimate: first_estimate(&request), request });
        }
    }
    all
}

/// All that the workers share beside the process.
struct World {
    process: Arc<Process>,
    seed: u64,
    kinds: Vec<Kind>,
    books: Mutex<Books>,
    is_honest: AtomicBool,
}

/// The tokens in the minute of a backend's record.
fn minute_tokens(record: Option<&[u8]>, now_ms: u64) -> u64 {
    let limit = Some(NonZeroU32::MAX);
    let settings = BudgetSettings { tokens_per_minute: limit, ..BudgetSettings::default() };
    let now = Timestamp::from_ms(now_ms);
    u64::from(u32::MAX) - budget::remaining_tokens(record, &settings, now).unwrap()
}

/// The thousandths of tokens in the bucket of a backend's record.
fn bucket_permille(record: Option<&[u8]>, now_ms: u64) -> u64 {
    let settings = BudgetSettings { provisioned: Some(EXACT), ..BudgetSettings::default() };
    budget::provisioned_permille(record, &settings, Timestamp::from_ms(now_ms)).unwrap()
}

/// The tokens in the minute and in the quota of a consumer's record.
fn consumer_tokens(record: Option<&[u8]>, now_ms: u64) -> (u64, u64) {
    let quota = Quota { tokens: NonZeroU64::MAX, period: Period::Month };
    let settings = ConsumerSettings {
        tokens_per_minute: Some(NonZeroU32::MAX),
        quota: Some(quota),
        ..ConsumerSettings::default()
    };
    let left = consumer::remaining(record, &settings, Timestamp::from_ms(now_ms));
    (u64::from(u32::MAX) - left.tokens_per_minute.unwrap(), u64::MAX - left.quota.unwrap())
}

/// What spreads unlisted consumers in these tests, so that it is known who shares a slot.
fn secret() -> SlotSecret {
    SlotSecret::new([3, 4])
}

fn key_of_consumer(name: &str) -> String {
    let keys = Keys::new(None);
    match name {
        "minute" | "quota" | "free" => keys.consumer(name),
        other => keys.consumer_slot(unlisted_slot(other, &secret())),
    }
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        let world = Arc::new(Self {
            process: Process::new(&format!("random operations, seed {seed}")),
            seed,
            kinds: kinds(),
            books: Mutex::default(),
            is_honest: AtomicBool::new(true),
        });
        world.process.corrupt(&Keys::new(None).slot_secret(), &secret().encode());
        let (watching, responding) = (Arc::downgrade(&world), Arc::downgrade(&world));
        world.process.shared().watch = Some(Box::new(move |key, old, new| {
            if let Some(world) = watching.upgrade() {
                world.see_write(key, old, new);
            }
        }));
        world.process.respond(move |seen| {
            responding.upgrade().map_or_else(Script::ok, |world| world.response(seen))
        });
        world
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    fn fail(&self, what: String) {
        self.books().failures.push(what);
    }

    /// Checks that no reservation goes beyond a limit. When nobody uses more than expected, only
    /// reservations make a count grow.
    fn see_write(&self, key: &str, old: Option<&[u8]>, new: &[u8]) {
        let now_ms = self.process.wall_ms();
        let is_budget = key.starts_with("spillway/budget/");
        if new.is_empty() || !is_budget && !key.starts_with("spillway/consumer") {
            return;
        }
        let mut books = self.books();
        let seconds = books.seconds.entry(key.to_owned()).or_default();
        *seconds = seconds.at(now_ms);
        if !self.is_honest.load(Ordering::SeqCst) {
            return;
        }
        if is_budget {
            let name = key.rsplit('/').next().unwrap_or_default();
            let tokens = minute_tokens(Some(new), now_ms);
            if tokens > limit(name) {
                books.failures.push(format!("{key} has {tokens}"));
            }
            let before = bucket_permille(old, now_ms);
            if before >= BURST_TOKENS * ROOM_PERMILLE && bucket_permille(Some(new), now_ms) > before
            {
                books.failures.push(format!("{key} was full and was filled"));
            }
        } else if !key.ends_with("/quota") {
            let (tokens, _) = consumer_tokens(Some(new), now_ms);
            if tokens > limit("consumer") {
                books.failures.push(format!("{key} has {tokens}"));
            }
        }
    }

    /// What a backend does follows from the request and the backend, not from who came first.
    fn response(&self, seen: &Seen) -> Script {
        let number =
            |name: &str| seen.header(name).and_then(|text| text.parse::<u64>().ok()).unwrap();
        let (id, epoch) = (number("x-id"), number("x-epoch"));
        let kind = &self.kinds[usize::try_from(number("x-kind")).unwrap()];
        let salt = u64::from(seen.cluster.as_bytes()[0]) << 40;
        let mut random = Random::new(self.seed ^ id ^ salt);
        let phase = Phase::of(epoch);
        let does = Behaviour::random(&mut random, kind.estimate, phase, &seen.cluster);
        let mut books = self.books();
        let number = books.number(&Keys::new(None).budget(&seen.cluster));
        books.made.entry(id).or_default().push(Made {
            cluster: seen.cluster.clone(),
            does,
            number,
        });
        let script = does.script();
        if phase == Phase::Steps {
            script.after_ms(random.pick(&[0, 0, 1, 700])).every_ms(random.pick(&[0, 0, 1, 9_000]))
        } else {
            script
        }
    }
}

/// A request on its way.
struct Flight {
    stream: u32,
    id: u64,
    kind: usize,
    consumer: &'static str,
    /// The second in which its consumer's tokens were reserved.
    number: u64,
}

/// One worker's requests.
struct Traffic<'w> {
    world: &'w World,
    random: Random,
    last_id: u64,
    flights: Vec<Flight>,
}

impl Traffic<'_> {
    fn send(&mut self, envoy: &mut Envoy, epoch: u64) {
        // The first four are larger than any limit.
        let first = if Phase::of(epoch) == Phase::Honest { 4 } else { 0 };
        let kind = first + self.random.below(self.world.kinds.len() - first);
        let consumer = self.random.pick(&CONSUMERS);
        self.last_id += 1;
        let id = self.last_id;
        let request = self.world.kinds[kind].request.clone();
        let request = request
            .header("x-id", &id.to_string())
            .header("x-epoch", &epoch.to_string())
            .header("x-kind", &kind.to_string())
            .header("x-consumer", consumer);
        let stream = envoy.send(request);
        let number = self.world.books().number(&key_of_consumer(consumer));
        self.flights.push(Flight { stream, id, kind, consumer, number });
    }

    /// Sends requests, lets things happen and lets clients leave.
    fn round(&mut self, envoy: &mut Envoy, epoch: u64) {
        for _ in 0..REQUESTS_PER_ROUND {
            self.send(envoy, epoch);
            for _ in 0..self.random.below(12) {
                envoy.step();
                if self.random.below(10) == 0 {
                    self.world.process.shared().conflicts = 1 + self.random.next() as u32 % 3;
                }
            }
            if self.random.below(6) == 0 {
                let victim = self.random.below(self.flights.len());
                envoy.cancel(self.flights[victim].stream);
            }
            self.land(envoy);
        }
        if Phase::of(epoch) == Phase::Steps {
            envoy.pass(0);
            self.land(envoy);
        }
    }

    /// Notes what the ended requests used.
    fn land(&mut self, envoy: &mut Envoy) {
        let (landed, flying) =
            std::mem::take(&mut self.flights).into_iter().partition(|it| !envoy.is_open(it.stream));
        self.flights = flying;
        for flight in Vec::<Flight>::into_iter(landed) {
            let parts = envoy.chunks(flight.stream);
            let status = envoy.take(flight.stream).status();
            let mut books = self.world.books();
            let estimate = self.world.kinds[flight.kind].estimate;
            let mut made = books.made.remove(&flight.id).unwrap_or_default();
            // Without this status nothing of a backend's response reached the client.
            let served = made.pop_if(|_| status == 200);
            let left = made.pop_if(|_| status == 0);
            // One that is larger than the limit counts as the limit.
            let taken = |cluster: &str| estimate.total().min(limit(cluster));
            for failed in made {
                let is_kept = failed.does.is_counted();
                let kept = Kept::exactly(if is_kept { taken(&failed.cluster) } else { 0 });
                books.enter(Keys::new(None).budget(&failed.cluster), failed.number, NOTHING, kept);
            }
            if let Some(Made { cluster, number, .. }) = left {
                let kept = Kept { least: 0, most: taken(&cluster) };
                books.enter(Keys::new(None).budget(&cluster), number, NOTHING, kept);
            }
            let Some(served) = served else { continue };
            let usage = served.does.used(estimate, parts);
            let kept = Kept::exactly(usage.total().max(taken(&served.cluster)));
            books.enter(Keys::new(None).budget(&served.cluster), served.number, usage, kept);
            books.enter(key_of_consumer(flight.consumer), flight.number, usage, kept);
        }
    }

    fn end(&mut self, envoy: &mut Envoy) {
        while envoy.step() {}
        self.land(envoy);
        for flight in &self.flights {
            envoy.cancel(flight.stream);
        }
        self.land(envoy);
    }
}

impl World {
    /// Compares all records with the books, when everything has ended.
    fn audit(&self, epoch: u64, quota_before: u64) {
        let now_ms = self.process.wall_ms();
        let read = |key: &str| self.process.shared().read(key).map(|(record, _)| record);
        let mut wrong = Vec::new();
        let books = self.books();
        let mut compare = |key: &str, is: u64, should: u64| {
            if is != should {
                let phase = Phase::of(epoch);
                wrong.push(format!(
                    "epoch {epoch} ({phase:?}): {key} has {is}, should have {should}"
                ));
            }
        };
        for backend in ["b", "c"] {
            let key = Keys::new(None).budget(backend);
            let kept = books.minute(&key, now_ms).map(|entry| entry.kept);
            let kept = kept.fold(Kept::default(), Kept::plus);
            let is = minute_tokens(read(&key).as_deref(), now_ms);
            compare(&key, is, is.clamp(kept.least, kept.most));
        }
        if Phase::of(epoch) != Phase::Steps {
            let key = Keys::new(None).budget("a");
            let permille = |Entry { usage, .. }: Entry| {
                let input = usage.prompt_tokens - usage.cached_tokens;
                1_000 * (input + OUTPUT_WEIGHT * usage.completion_tokens)
            };
            let should = books.minute(&key, now_ms).map(permille).sum();
            compare(&key, bucket_permille(read(&key).as_deref(), now_ms), should);
        }
        for name in ["minute", "who", "anyone"] {
            let key = key_of_consumer(name);
            let should = books.minute(&key, now_ms).map(|entry| entry.usage.total()).sum();
            compare(&key, consumer_tokens(read(&key).as_deref(), now_ms).0, should);
        }
        if Phase::of(epoch) != Phase::Steps {
            let key = key_of_consumer("quota");
            let entries = books.entries.get(&key).into_iter().flatten();
            let should = quota_before + entries.map(|entry| entry.usage.total()).sum::<u64>();
            compare(&key, consumer_tokens(read(&key).as_deref(), now_ms).1, should);
        }
        drop(books);
        self.books().failures.extend(wrong);
    }

    /// Lets a minute pass, after which nothing may be left.
    fn let_a_minute_pass(&self, epoch: u64) {
        self.process.advance(61_000);
        let now_ms = self.process.wall_ms();
        let read = |key: &str| self.process.shared().read(key).map(|(record, _)| record);
        let backends = ["a", "b", "c"].map(|name| Keys::new(None).budget(name));
        let left = backends.map(|key| minute_tokens(read(&key).as_deref(), now_ms));
        let names = ["minute", "who", "anyone"].map(key_of_consumer);
        let held = names.map(|key| consumer_tokens(read(&key).as_deref(), now_ms).0);
        if (left, held) != ([0; 3], [0; 3]) {
            self.fail(format!("epoch {epoch}: {left:?} and {held:?} stay"));
        }
    }

    fn quota_used(&self) -> u64 {
        let record = self
            .process
            .shared()
            .read(&Keys::new(None).consumer("quota"))
            .map(|(record, _)| record);
        consumer_tokens(record.as_deref(), self.process.wall_ms()).1
    }

    /// Between two rounds: nobody else runs.
    fn move_clock(&self, random: &mut Random) {
        const HOUR_MS: i64 = 3_600_000;
        match random.below(8) {
            0 => self.process.advance(1),
            1 | 2 => self.process.advance(900),
            3 => self.process.advance(7_000),
            4 => self.process.advance(61_000),
            5 => self.process.step_clock(-1_000),
            6 => self.process.step_clock(random.pick(&[5 * HOUR_MS, 30_000])),
            _ => self.process.step_clock(random.pick(&[-5 * HOUR_MS, -30_000, -2_500])),
        }
    }
}

/// A worker that panicked would leave the others waiting, so what is wrong is collected.
#[test]
fn after_random_operations_on_all_workers_every_budget_is_exact() {
    let seed = 20_261_120;
    let world = World::new(seed);
    let process = &world.process;
    process.shared().reads_between_yields = 19;
    let barrier = Barrier::new(usize::try_from(WORKERS).unwrap());
    std::thread::scope(|scope| {
        for number in 0..WORKERS {
            let (world, barrier) = (&world, &barrier);
            scope.spawn(move || {
                worker(&world.process, SETTINGS, |envoy| run(world, number, envoy, barrier));
            });
        }
    });
    let books = world.books();
    let races = process.shared().lost_races;
    let writes = process.shared().writes;
    let requests = WORKERS * EPOCHS * ROUNDS * REQUESTS_PER_ROUND;
    println!(
        "{requests} requests, {} attempts, {races} lost races in {writes} writes, \
         {} answered by the gateway itself; {} updates lost, {} without a budget",
        process.metric("attempts_total"),
        process.metric("exhausted_total"),
        process.metric("lost_updates"),
        process.metric("unbudgeted"),
    );
    for outcome in ["success", "client_error", "throttled", "fault", "cancelled"] {
        println!("{outcome}: {}", process.metric(&format!("outcome.{outcome}")));
    }
    let first = books.failures.iter().take(20).collect::<Vec<_>>();
    let count = books.failures.len();
    assert!(books.failures.is_empty(), "seed {seed}: {count} failures: {first:#?}");
    assert_eq!(process.logged().matches("could not be settled").count(), 0, "seed {seed}");
}

fn run(world: &World, number: u64, envoy: &mut Envoy, barrier: &Barrier) {
    let random = Random::new(world.seed + number);
    let mut traffic = Traffic { world, random, last_id: number << 32, flights: Vec::new() };
    let mut clock = Random::new(!world.seed);
    for epoch in 0..EPOCHS {
        let is_first = number == 0;
        let phase = Phase::of(epoch);
        let wall_before = world.process.wall_ms();
        let mut quota_before = 0;
        if is_first {
            world.is_honest.store(phase == Phase::Honest, Ordering::SeqCst);
            quota_before = world.quota_used();
        }
        barrier.wait();
        for _ in 0..ROUNDS {
            traffic.round(envoy, epoch);
            barrier.wait();
            if is_first && phase == Phase::Steps {
                world.move_clock(&mut clock);
            }
            barrier.wait();
        }
        traffic.end(envoy);
        barrier.wait();
        if is_first {
            world.audit(epoch, quota_before);
            if phase == Phase::Steps {
                // Later than the clock ever was, so that the next epoch begins with nothing.
                let behind = wall_before.saturating_sub(world.process.wall_ms());
                world.process.step_clock(i64::try_from(behind).unwrap() + 400_000_000);
            }
            world.let_a_minute_pass(epoch);
            world.books().forget();
            world.process.take_clusters();
        }
        barrier.wait();
    }
}
