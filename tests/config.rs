//! Whole configurations: those that are taken, those that are refused and with which words, and the
//! reference in `docs/configuration.md`, which must know every key and show only what works.
//!
//! `tests/config/bad` has a refused configuration per rule (`*.json`) and, beside it, exactly what
//! its author is told (`*.txt`). `WRITE_MESSAGES=1 cargo test --locked --test config` writes these again;
//! read the difference before committing it.

#![cfg(not(target_arch = "wasm32"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "tests fail by panicking"
)]

use std::num::{NonZeroU32, NonZeroU64};

use spillway::config::{
    Affinity, Class, Config, ConfigErrors, ConsumerSettings, Credential, Limits, Period, Quota,
    operation_bit,
};
use spillway::openai::call::api::{Api, Operation};
use spillway::policy::pool::{OperationSet, Reasons, Threshold};
use spillway::policy::time::Millis;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// In every value of the environment and in every misplaced key of the fixtures.
const SECRET: &str = "hunter2";

fn environment(name: &str) -> Option<String> {
    match name {
        "EMPTY_KEY" => Some(String::new()),
        "LINE_KEY" => Some(format!("{SECRET}-line\n")),
        "SPACED_KEY" => Some(format!("{SECRET} spaced")),
        "MISSING_KEY" => None,
        _ => name.ends_with("_KEY").then(|| format!("{SECRET}-of-{name}")),
    }
}

fn parse(json: &[u8]) -> Result<Config, ConfigErrors> {
    Config::parse(json, &environment)
}

fn good(name: &str) -> Config {
    let path = folder("good").join(format!("{name}.json"));
    parse(&fs::read(&path).unwrap()).unwrap_or_else(|errors| panic!("{name}: {errors}"))
}

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind)
}

/// The names of the files in a folder that end with `extension`, without it.
fn stems(kind: &str, extension: &str) -> BTreeSet<String> {
    let paths = fs::read_dir(folder(kind)).unwrap().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn docs() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    fs::read_to_string(path).unwrap()
}

// Refused configurations

#[test]
fn every_bad_configuration_is_refused_with_exactly_its_message() {
    let stems = stems("bad", "json");
    assert!(stems.len() >= 45, "only {} bad configurations are left", stems.len());
    for name in stems {
        let json = fs::read(folder("bad").join(format!("{name}.json"))).unwrap();
        let Err(errors) = parse(&json) else { panic!("{name} is taken") };
        let path = folder("bad").join(format!("{name}.txt"));
        if std::env::var_os("WRITE_MESSAGES").is_some() {
            fs::write(&path, format!("{errors}\n")).unwrap();
        }
        let message = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(format!("{errors}\n"), message, "{name}");
    }
}

#[test]
fn every_bad_configuration_has_a_message_and_every_message_its_configuration() {
    assert_eq!(stems("bad", "json"), stems("bad", "txt"));
}

#[test]
fn no_message_shows_a_value_of_the_environment_or_a_misplaced_key() {
    for name in stems("bad", "json") {
        let json = fs::read(folder("bad").join(format!("{name}.json"))).unwrap();
        let errors = parse(&json).unwrap_err();
        assert!(!errors.to_string().contains(SECRET), "{name}: {errors}");
        assert!(!format!("{errors:?}").contains(SECRET), "{name}");
    }
}

#[test]
fn a_dump_of_a_configuration_shows_no_key() {
    let config = good("minimal");
    assert!(!format!("{config:?}").contains(SECRET));
    let Credential::ApiKey(key) = &config.pools[0].backends[0].credential else { panic!() };
    assert_eq!(key.expose(), "hunter2-of-EAST_KEY");
}

#[test]
fn several_errors_are_counted_and_one_is_not() {
    let one = parse(b"{}").unwrap_err();
    assert_eq!(one.to_string(), "pools: missing, but required");
    let two = parse(br#"{"pool": 1}"#).unwrap_err().to_string();
    assert!(two.starts_with("the configuration has 2 errors\npools: "), "{two}");
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let errors = parse(b"{\"pools\": \"\xff\"}").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "configuration: not valid JSON: line 1, column 12: invalid unicode code point"
    );
}

// Accepted configurations

#[test]
fn every_good_configuration_is_taken() {
    let stems = stems("good", "json");
    assert!(stems.len() >= 6);
    for name in stems {
        good(&name);
    }
}

#[test]
fn a_minimal_configuration_has_the_documented_defaults() {
    let config = good("minimal");
    let pool = &config.pools[0];
    assert_eq!(config.default_pool, 0);
    assert_eq!(config.response.served_by_header.as_deref(), Some("x-served-by"));
    assert!(!config.response.trail && !config.response.backend_rate_limits);
    assert_eq!(pool.models, ["gpt-4o"]);
    assert_eq!(pool.affinity, None);

    let backend = &pool.backends[0];
    assert_eq!((backend.cluster.as_str(), backend.api), ("east", Api::Azure));
    assert_eq!(backend.base_path, "/v1");
    assert_eq!((&backend.deployment, &backend.api_version), (&None, &None));
    assert_eq!(backend.provisioned, None);
    let member = &pool.policy.members[0];
    assert_eq!((member.priority, member.weight, member.quota_group), (1, 1, None));
    assert_eq!((member.operations, member.max_prompt_tokens), (OperationSet::ALL, None));

    assert_eq!(pool.policy.throttle.default_retry_after, Millis::from_secs(10));
    assert_eq!(pool.policy.throttle.max_retry_after, Millis::from_secs(60));
    let failover = pool.policy.failover;
    assert_eq!((failover.max_attempts, failover.retry_percent), (1, 20));
    assert_eq!((failover.min_retries_per_second, failover.max_wait), (10, Millis::ZERO));
    assert_eq!((failover.hold_bytes, failover.hold_time), (65_536, Millis::new(500)));
}

#[test]
fn the_default_breaker_counts_shares_and_faults_in_a_row() {
    let breaker = good("minimal").pools[0].policy.breaker.clone();
    assert_eq!(breaker.max_trip_duration, Millis::from_secs(300));
    assert_eq!(breaker.probe_timeout, Millis::from_secs(30));
    assert_eq!(breaker.ramp_duration, Millis::from_secs(10));
    let thresholds: Vec<Threshold> = breaker.rules.iter().map(|rule| rule.threshold).collect();
    let share = Threshold::Percentage { percent: 50, min_requests: 20 };
    assert_eq!(thresholds, [share, Threshold::Consecutive(5)]);
    let expected: Vec<u16> = std::iter::once(408).chain(500..600).collect();
    let all = Reasons { connect: true, timeout: true, reset: true, stream_error: true, slow: None };
    for rule in &breaker.rules {
        assert_eq!(rule.interval, Millis::from_secs(30));
        assert_eq!(rule.trip_duration, None, "the kind of fault decides");
        assert!(rule.accept_retry_after);
        let counted: Vec<u16> =
            (100..600).filter(|status| rule.statuses.contains(*status)).collect();
        assert_eq!(counted, expected);
        assert_eq!(rule.reasons, all);
    }
    assert_eq!(good("breaker-defaults").pools[0].policy.breaker, breaker, "an empty object");
}

#[test]
fn the_designs_example_means_what_it_says() {
    let config = good("example");
    let pool = &config.pools[0];
    assert_eq!(config.pool_by_model.keys().collect::<Vec<_>>(), ["gpt-4o", "gpt-4o-2024-11-20"]);
    assert_eq!(config.pool_by_model.get("gpt-4o-2024-11-20").copied(), Some(0));
    assert_eq!(config.pool_by_model.get("GPT-4o").copied(), None);

    let ptu = &pool.backends[0];
    assert_eq!(ptu.cluster, "aoai-uksouth");
    assert_eq!(ptu.deployment.as_deref(), Some("gpt-4o-ptu"));
    assert_eq!(ptu.api_version.as_deref(), Some("2024-10-21"));
    let provisioned = ptu.provisioned.unwrap();
    assert_eq!((provisioned.ptus, provisioned.output_token_weight), (100, 4));

    let tiers: Vec<(u8, u32)> =
        pool.policy.tiers.iter().map(|tier| (tier.priority, tier.members.len())).collect();
    assert_eq!(tiers, [(1, 1), (2, 2)]);
    assert_eq!(pool.policy.failover.max_attempts, 4);
    assert!(!pool.policy.breaker.rules[0].reasons.stream_error);
}

#[test]
fn every_key_arrives_where_it_belongs() {
    let config = good("everything");
    let [large, small] = config.pools.as_slice() else { panic!() };
    assert_eq!(config.default_pool, 1);
    assert_eq!(config.response.served_by_header.as_deref(), Some("x-backend"));
    assert!(config.response.trail && config.response.backend_rate_limits);
    assert_eq!(config.pool_by_model.get("o4-mini").copied(), Some(1));
    assert_eq!(large.affinity, Some(Affinity::Header("x-session".to_owned())));
    assert_eq!(small.affinity, Some(Affinity::Body));
    assert!(small.policy.breaker.rules.is_empty());

    let [ptu, v1, other] = large.backends.as_slice() else { panic!() };
    assert!(matches!(ptu.credential, Credential::Passthrough));
    assert!(matches!(v1.credential, Credential::Passthrough));
    assert!(matches!(&other.credential, Credential::ApiKey(_)));
    assert_eq!(ptu.provisioned.unwrap().output_token_weight, 1);
    assert_eq!((v1.api, other.api), (Api::AzureV1, Api::OpenAi));
    assert_eq!((other.base_path.as_str(), other.host.as_str()), ("/api/v1", "[2001:db8::1]:8443"));

    let members = &large.policy.members;
    let groups: Vec<_> = members.iter().map(|member| member.quota_group).collect();
    assert_eq!(groups, [Some(0), Some(1), Some(0)]);
    assert_eq!((members[0].priority, members[0].weight, members[1].weight), (0, 100, 0));
    assert_eq!(members[0].max_prompt_tokens, Some(128_000));
    assert!(members[0].operations.covers(operation_bit(Operation::Responses)));
    assert!(!members[0].operations.covers(operation_bit(Operation::Embeddings)));
}

#[test]
fn limits_of_backends_and_consumers_arrive_where_they_belong() {
    let config = good("everything");
    let [ptu, v1, other] = config.pools[0].backends.as_slice() else { panic!() };
    assert_eq!(ptu.provisioned.unwrap().burst_tokens, 10_000);
    assert_eq!(ptu.limits, None);
    let both = Limits {
        tokens_per_minute: NonZeroU32::new(300_000),
        requests_per_minute: NonZeroU32::new(1_800),
    };
    assert_eq!(v1.limits, Some(both));
    let one = Limits { tokens_per_minute: None, requests_per_minute: NonZeroU32::new(60) };
    assert_eq!(other.limits, Some(one));

    let consumers = config.consumers.unwrap();
    assert_eq!(consumers.header, "x-consumer");
    assert_eq!(consumers.batch_max_utilization_percent, 70);
    assert_eq!(consumers.remaining_tokens_header.as_deref(), Some("remaining-tokens"));
    assert_eq!(consumers.consumed_tokens_header.as_deref(), Some("x-tokens"));
    assert_eq!(consumers.remaining_quota_header, None);

    let limits = |name| *consumers.limits_of(name);
    let default = ConsumerSettings {
        tokens_per_minute: NonZeroU32::new(50_000),
        quota: None,
        class: Class::Interactive,
    };
    assert_eq!((limits(None), limits(Some("Batch"))), (default, default));
    let batch = limits(Some("batch"));
    assert_eq!((batch.tokens_per_minute, batch.class), (NonZeroU32::new(200_000), Class::Batch));
    assert_eq!(limits(Some("vip@contoso.com")), ConsumerSettings::default(), "no limit at all");
    let quota = Quota { tokens: NonZeroU64::new(1_000_000).unwrap(), period: Period::Month };
    assert_eq!(limits(Some("trial")).quota, Some(quota));
}

#[test]
fn budgets_are_off_unless_given_and_have_defaults_when_they_are() {
    let config = good("minimal");
    assert_eq!((config.consumers, config.pools[0].backends[0].limits), (None, None));
    let burst = |ptus: u32, rate: u32| {
        let provisioned =
            format!(r#"{{"ptus": {ptus}, "input_tokens_per_minute_per_ptu": {rate}}}"#);
        let backend = format!(r#"{{"name": "b", "host": "h", "provisioned": {provisioned}}}"#);
        let json = format!(r#"{{"pools": [{{"name": "a", "backends": [{backend}]}}]}}"#);
        parse(json.as_bytes()).unwrap().pools[0].backends[0].provisioned.unwrap().burst_tokens
    };
    assert_eq!(burst(100, 2_500), 41_667, "what drains in ten seconds, rounded up");
    assert_eq!(burst(1, 1), 1);
    assert_eq!(burst(100_000, 10_000_000), 166_666_666_667);

    let json = r#"{"pools": [{"name": "a", "backends": [{"name": "b", "host": "h"}]}], "consumers": {"header": "X-Team"}}"#;
    let consumers = parse(json.as_bytes()).unwrap().consumers.unwrap();
    assert_eq!(consumers.header, "x-team");
    assert_eq!(consumers.default, ConsumerSettings::default());
    assert_eq!(consumers.batch_max_utilization_percent, 50);
    let headers = [
        consumers.remaining_tokens_header,
        consumers.consumed_tokens_header,
        consumers.remaining_quota_header,
    ];
    assert_eq!(headers, [None, None, None]);
}

#[test]
fn a_token_limit_policy_of_api_management_carries_over() {
    let consumers = good("apim").consumers.unwrap();
    let quota = Some(Quota { tokens: NonZeroU64::new(100_000).unwrap(), period: Period::Day });
    let default = ConsumerSettings {
        tokens_per_minute: NonZeroU32::new(5_000),
        quota,
        class: Class::Interactive,
    };
    assert_eq!(consumers.default, default);
    let quota = Some(Quota { tokens: NonZeroU64::new(7).unwrap(), period: Period::Hour });
    assert_eq!(consumers.limits_of(Some("a")).quota, quota);
    assert_eq!(consumers.remaining_tokens_header.as_deref(), Some("remaining-tokens"));
    assert_eq!(consumers.consumed_tokens_header.as_deref(), Some("consumed-tokens"));
    assert_eq!(consumers.remaining_quota_header.as_deref(), Some("remaining-quota-tokens"));
}

#[test]
fn every_setting_of_a_pools_policy_arrives_where_it_belongs() {
    let policy = good("everything").pools[0].policy.clone();
    assert_eq!(policy.throttle.max_retry_after, Millis::from_secs(3_600));
    assert_eq!(policy.failover.max_attempts, 3);
    assert_eq!((policy.failover.retry_percent, policy.failover.min_retries_per_second), (0, 0));
    assert_eq!(policy.failover.max_wait, Millis::from_secs(60));
    assert_eq!((policy.failover.hold_bytes, policy.failover.hold_time), (1_024, Millis::ZERO));
    assert_eq!(policy.breaker.max_trip_duration, Millis::from_secs(600));
    assert_eq!(policy.breaker.probe_timeout, Millis::from_secs(5));
    assert_eq!(policy.breaker.ramp_duration, Millis::ZERO);

    let [slow, dead] = policy.breaker.rules.as_slice() else { panic!() };
    assert_eq!(slow.threshold, Threshold::Percentage { percent: 50, min_requests: 10 });
    assert_eq!(slow.interval, Millis::from_secs(60));
    assert_eq!(slow.trip_duration, Some(Millis::from_secs(90)));
    assert_eq!(slow.reasons.slow, Some(Millis::from_secs(20)));
    assert!(!slow.reasons.connect && !slow.accept_retry_after);
    assert!(slow.statuses.contains(503) && !slow.statuses.contains(504));
    assert_eq!(dead.threshold, Threshold::Consecutive(3));
    assert!(dead.reasons.connect && !dead.reasons.reset && !dead.statuses.contains(500));
}

#[test]
fn a_pool_of_api_management_carries_over() {
    let config = good("apim");
    let policy = &config.pools[0].policy;
    let shares: Vec<(u8, u8)> =
        policy.members.iter().map(|member| (member.priority, member.weight)).collect();
    assert_eq!(shares, [(1, 3), (1, 1), (2, 1)]);
    let rule = &policy.breaker.rules[0];
    assert_eq!((rule.threshold, rule.interval), (Threshold::Count(3), Millis::from_secs(60)));
    assert!(rule.statuses.contains(429) && rule.statuses.contains(502));
    assert!(!rule.statuses.contains(428) && !rule.statuses.contains(408));
    assert!(!rule.reasons.connect, "the prose reason means statuses");
    // The default of five minutes gives way to the longer trip.
    assert_eq!(rule.trip_duration, Some(Millis::from_secs(600)));
    assert_eq!(policy.breaker.max_trip_duration, Millis::from_secs(600));
}

#[test]
fn a_struct_brings_doubles_and_booleans() {
    let config = good("struct");
    let policy = &config.pools[0].policy;
    let member = &policy.members[0];
    assert_eq!((member.priority, member.weight), (2, 50));
    assert_eq!(member.max_prompt_tokens, Some(128_000));
    assert_eq!(policy.breaker.rules[0].threshold, Threshold::Count(7));
    assert!(policy.breaker.rules[0].statuses.contains(503));
    assert_eq!(config.response.served_by_header, None);
    assert!(config.response.trail);
}

#[test]
fn a_default_gives_way_to_the_setting_that_it_contradicts() {
    let config = good("breaker-defaults");
    let policy = |position: usize| &config.pools[position].policy;
    assert_eq!(policy(1).breaker.rules[0].trip_duration, None);
    assert_eq!(policy(1).breaker.max_trip_duration, Millis::from_secs(10));
    let percentage = Threshold::Percentage { percent: 10, min_requests: 20 };
    assert_eq!(policy(2).breaker.rules[0].threshold, percentage);
    assert_eq!(policy(3).throttle.default_retry_after, Millis::from_secs(5));
    assert_eq!(policy(4).throttle.max_retry_after, Millis::from_secs(120));
}

#[test]
fn max_attempts_defaults_to_the_size_of_the_pool_to_six_at_most_and_twice_that_to_wait() {
    for (backends, attempts) in [(1, 1), (3, 3), (6, 6), (7, 6), (64, 6)] {
        let names = (0..backends).map(|i| format!(r#"{{"name": "b{i}", "host": "h"}}"#));
        let list = names.collect::<Vec<_>>().join(",");
        let json = format!(r#"{{"pools": [{{"name": "a", "backends": [{list}]}}]}}"#);
        let config = parse(json.as_bytes()).unwrap();
        assert_eq!(config.pools[0].policy.failover.max_attempts, attempts);
        for (max_wait, times) in [("1ms", 2), ("0s", 1)] {
            let failover = format!(r#""failover": {{"max_wait": "{max_wait}"}}, "backends""#);
            let config = parse(json.replacen("\"backends\"", &failover, 1).as_bytes()).unwrap();
            assert_eq!(config.pools[0].policy.failover.max_attempts, times * attempts);
        }
    }
}

#[test]
fn a_backends_record_is_found_by_its_name_wherever_it_stands() {
    let key = |config: &Config| config.pools[0].policy.members[0].key;
    let (one, same) = (good("minimal"), good("struct"));
    assert_eq!(key(&one), key(&same));
    assert_ne!(key(&one), key(&good("example")));
}

// Any bytes

/// A small generator of random numbers (xorshift64*); its seed is in the test.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % bound.max(1)
    }
}

#[test]
fn a_damaged_configuration_is_taken_or_refused_but_never_a_panic() {
    let mut random = Random(20_261_120);
    let mut refused = 0;
    for name in stems("good", "json") {
        let text = fs::read(folder("good").join(format!("{name}.json"))).unwrap();
        for _ in 0..400 {
            let mut bytes = text.clone();
            match random.below(3) {
                0 => bytes.truncate(random.below(text.len())),
                1 => bytes[random.below(text.len())] = u8::try_from(random.below(256)).unwrap(),
                _ => drop(bytes.remove(random.below(text.len()))),
            }
            refused += usize::from(parse(&bytes).is_err());
        }
    }
    assert!(refused > 1_000, "the damage is not harmless: {refused}");
}

#[test]
fn a_configuration_with_any_value_replaced_is_taken_or_refused_with_a_path() {
    let mut random = Random(7);
    for name in stems("good", "json") {
        let text = fs::read(folder("good").join(format!("{name}.json"))).unwrap();
        let tree: serde_json::Value = serde_json::from_slice(&text).unwrap();
        for _ in 0..400 {
            let mut tree = tree.clone();
            mutate(&mut tree, &mut random);
            let Err(errors) = parse(tree.to_string().as_bytes()) else { continue };
            for error in errors.iter() {
                assert!(!error.path.is_empty() || !tree.is_object(), "{error} in {tree}");
                assert!(!error.problem.contains(SECRET), "{error}");
            }
        }
    }
}

/// Walks down to a random value and replaces, removes or renames it.
fn mutate(value: &mut serde_json::Value, random: &mut Random) {
    use serde_json::{Value, json};
    let stop = random.below(5) == 0;
    match value {
        Value::Object(members) if !stop && !members.is_empty() => {
            let key = members.keys().nth(random.below(members.len())).unwrap().clone();
            match random.below(8) {
                0 => drop(members.remove(&key)),
                1 => {
                    let moved = members.remove(&key).unwrap();
                    members.insert(format!("{key}é"), moved);
                }
                _ => mutate(members.get_mut(&key).unwrap(), random),
            }
        }
        Value::Array(items) if !stop && !items.is_empty() => {
            let position = random.below(items.len());
            match random.below(8) {
                0 => drop(items.remove(position)),
                1 => items.push(items[position].clone()),
                _ => mutate(&mut items[position], random),
            }
        }
        _ => {
            let any = [
                json!(null),
                json!(true),
                json!(0),
                json!(-1),
                json!(1.5),
                json!(1e300),
                json!(""),
                json!("x"),
                json!("é\u{0}"),
                json!("PT1S"),
                json!("0s"),
                json!([]),
                json!([[]]),
                json!({}),
                json!({"a": 1}),
                json!("5xx"),
                json!(u64::MAX),
            ];
            *value = any[random.below(any.len())].clone();
        }
    }
}

// The reference

/// The keys that the reader asks for, out of its source: the plain words among the arguments of the
/// calls that take a key, and those of the lists that loops over such calls go through.
fn known_keys() -> BTreeSet<String> {
    let is_key =
        |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let mut keys = BTreeSet::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config")).unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        for call in [".optional(", ".required(", ".optional_or_apim(", ".refused(", " in ["] {
            for after in code.split(call).skip(1) {
                let arguments = after.split(['|', ')', ']']).next().unwrap();
                let quoted = arguments.split('"').skip(1).step_by(2);
                keys.extend(quoted.filter(is_key).map(str::to_owned));
            }
        }
    }
    keys
}

#[test]
fn the_reference_names_every_key() {
    let (docs, keys) = (docs(), known_keys());
    assert!(keys.len() >= 70, "found only {} keys: {keys:?}", keys.len());
    let missing: Vec<_> = keys.iter().filter(|key| !docs.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not explain {missing:?}");
}

#[test]
fn every_configuration_that_the_documents_show_is_taken() {
    let reference = docs();
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let shown = shown_configurations(&reference);
    assert!(shown.len() >= 3, "found only {} configurations", shown.len());
    assert_eq!(shown_configurations(&readme).len(), 1);
    for json in shown.into_iter().chain(shown_configurations(&readme)) {
        if let Err(errors) = parse(json.as_bytes()) {
            panic!("{errors}\n{json}");
        }
    }
}

#[test]
fn the_reference_has_one_example_with_every_key_that_can_be_given() {
    let docs = docs();
    let (_, after) = docs.split_once("## Everything at once").unwrap();
    let example = shown_configurations(after)[0];
    let other_spellings = [
        "min",
        "max",
        "status_code_ranges",
        "error_reasons",
        "token_quota",
        "token_quota_period",
        "remaining_tokens_header_name",
        "tokens_consumed_header_name",
        "remaining_quota_tokens_header_name",
    ];
    let refused = [
        "counter_key",
        "managed_identity",
        "federated",
        "client_secret",
        "key_vault",
        "value",
        "key",
        "secret",
        "literal",
        "services",
        "session_affinity",
    ];
    for key in known_keys() {
        let is_expected =
            !other_spellings.contains(&key.as_str()) && !refused.contains(&key.as_str());
        assert_eq!(example.contains(&format!("\"{key}\"")), is_expected, "{key}");
    }
}

/// The blocks fenced as `json`: whole configurations, unlike those fenced as `jsonc`.
fn shown_configurations(docs: &str) -> Vec<&str> {
    let blocks = docs.split("```json\n").skip(1);
    blocks.map(|after| after.split("```").next().unwrap()).collect()
}
