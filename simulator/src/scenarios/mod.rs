//! The scenarios that `docs/routing.md` shows, and the expectations of each.

mod build;
mod marks;
mod random;

use crate::azure::Fault;
use crate::load::Pattern;
use crate::simulation::Simulation;
use build::{Build, SERVICE};
pub use marks::Mark;
pub use random::random;

/// One scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// The simulation.
    pub simulation: Simulation,
    /// The expectations of Spillway.
    pub marks: Vec<Mark>,
    /// Whether the table also shows the other gateways.
    pub has_peers: bool,
}

/// All scenarios of a seed.
pub fn all(seed: u64) -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(steady(seed));
    all.extend(outages(seed));
    all.extend(others(seed));
    all.extend(tenants(seed));
    all
}

/// A load of 150 % of what provisioned throughput takes.
fn steady(seed: u64) -> impl Iterator<Item = Scenario> {
    let sizes = [1, 6, 10].into_iter();
    let variants = sizes.flat_map(|seconds| {
        [(true, true), (true, false), (false, true), (false, false)]
            .map(|(streams, is_configured)| (seconds, streams, is_configured))
    });
    let steady = variants.map(move |(seconds, streams, is_configured)| {
        let build = Build { bucket_s: seconds, streams: Some(streams), is_configured, ..SERVICE };
        Scenario {
            name: format!(
                "150 %, bucket of {seconds} s, {}, {}",
                if streams { "streams" } else { "whole" },
                configured(is_configured)
            ),
            simulation: build.simulation(seed),
            marks: use_of_tokens(seconds, is_configured),
            has_peers: seconds != 6 && streams && is_configured,
        }
    });
    let bursts = [true, false].into_iter().map(move |is_configured| {
        let pattern = Pattern::Bursts { on_s: 10, off_s: 20, on: 3.0, off: 0.5 };
        let build = Build { pattern, percent: 100, is_configured, ..SERVICE };
        let mut marks = use_of_tokens(10, is_configured);
        marks.push(Mark::NoErrors);
        Scenario {
            name: format!("bursts of 3 ×, {}", configured(is_configured)),
            simulation: build.simulation(seed),
            marks,
            has_peers: is_configured,
        }
    });
    let uncorrected = Build { corrects: false, ..SERVICE }.simulation(seed);
    let uncorrected = Scenario {
        name: "150 %, the bucket is never corrected".to_owned(),
        simulation: uncorrected,
        marks: use_of_tokens(10, true),
        has_peers: false,
    };
    steady.chain(bursts).chain([uncorrected])
}

fn configured(is_configured: bool) -> &'static str {
    if is_configured { "with `provisioned`" } else { "without" }
}

fn use_of_tokens(bucket_s: u64, is_configured: bool) -> Vec<Mark> {
    vec![
        Mark::ProvisionedAtLeast(if bucket_s == 1 { 98.0 } else { 99.0 }),
        Mark::StandardAtMost(1.02),
        Mark::WastedAtMost(if is_configured { 0.5 } else { 3.0 }),
    ]
}

/// The region of provisioned throughput fails and recovers.
fn outages(seed: u64) -> impl Iterator<Item = Scenario> {
    let faults = [
        ("503", Fault::Status(503)),
        ("refused", Fault::Refused),
        ("silent", Fault::Silent),
        ("10 % errors", Fault::Errors { percent: 10 }),
    ];
    let lengths = [(8, "8 s"), (34, "34 s"), (600, "10 min")];
    let variants = lengths.into_iter().flat_map(move |length| faults.map(|fault| (length, fault)));
    let ordinary = variants.map(move |((length_s, length), (fault_name, fault))| {
        let build = Build { outage: Some((0, 120, length_s, fault)), ..SERVICE };
        outage(format!("outage of {length}, {fault_name}"), fault, build.simulation(seed))
    });
    let replicas = [Fault::Status(503), Fault::Silent].into_iter().map(move |fault| {
        let outage_of = Some((0, 120, 34, fault));
        let build = Build { outage: outage_of, replicas: 3, ..SERVICE };
        let name = if fault == Fault::Silent { "silent" } else { "503" };
        outage(format!("outage of 34 s, {name}, three replicas"), fault, build.simulation(seed))
    });
    // The capacity that is left is hardly that of the region.
    let tight = [(0, "first"), (1, "second")].into_iter().map(move |(backend, which)| {
        let fault = Fault::Status(503);
        let build =
            Build { outage: Some((backend, 120, 34, fault)), standard_tpm: 95_000, ..SERVICE };
        let build = Build { percent: if backend == 0 { 100 } else { 200 }, ..build };
        outage(
            format!("outage of 34 s, {which} tier, others nearly full"),
            fault,
            build.simulation(seed),
        )
    });
    ordinary.chain(replicas).chain(tight)
}

fn outage(name: String, fault: Fault, simulation: Simulation) -> Scenario {
    let mut marks = vec![Mark::NoNeedlessErrors, Mark::HealedAtLeast(80.0)];
    if !matches!(fault, Fault::Errors { .. }) {
        marks.push(Mark::AtDeadAtMost(10.0));
    }
    let has_peers = name.starts_with("outage of 34 s") && !name.contains("replicas");
    Scenario { name, simulation, marks, has_peers }
}

fn others(seed: u64) -> Vec<Scenario> {
    let scenario = |name: &str, build: Build, marks: Vec<Mark>, has_peers: bool| Scenario {
        name: name.to_owned(),
        simulation: build.simulation(seed),
        marks,
        has_peers,
    };
    let full = Build { standard_tpm: 30_000, max_wait_s: 5, ..SERVICE };
    let full_bursts = Pattern::Bursts { on_s: 10, off_s: 50, on: 3.0, off: 0.5 };
    let counts = |permille| Build {
        counts_permille: permille,
        has_limits: true,
        standard_tpm: 90_000,
        ..SERVICE
    };
    let marks = || vec![Mark::NoNeedlessErrors, Mark::ErrorsOfOptimum];
    let lowered = Some((1, 120, 600, Fault::Lowered { percent: 30 }));
    vec![
        scenario("all full for long, `max_wait` 5 s", full, marks(), true),
        scenario(
            "all briefly full, `max_wait` 5 s",
            Build { pattern: full_bursts, percent: 100, standard_tpm: 20_000, ..full },
            marks(),
            true,
        ),
        scenario("backends count 30 % more", counts(1_300), marks(), false),
        scenario("backends count 30 % less", counts(700), marks(), false),
        scenario(
            "nearly full, with `limits`",
            Build { has_limits: true, standard_tpm: 45_000, ..SERVICE },
            marks(),
            true,
        ),
        scenario(
            "lowered limit of one region",
            Build { outage: lowered, standard_tpm: 70_000, ..SERVICE },
            marks(),
            false,
        ),
        scenario(
            "three deployments of one quota",
            Build { shares_quota: true, standard_tpm: 100_000, percent: 65, ..SERVICE },
            vec![Mark::NoneTooEarly, Mark::NoNeedlessErrors],
            true,
        ),
    ]
}

/// Tenants with limits. The first one sends five times its limit.
fn tenants(seed: u64) -> impl Iterator<Item = Scenario> {
    [2, 5, 50].into_iter().map(move |tenants| {
        let size = tenants as u64 * 20;
        let build = Build { tenants, percent: 150 + size, standard_tpm: 4_000_000, ..SERVICE };
        let tokens = build.tenant_limit() * build.minutes();
        Scenario {
            name: format!("{tenants} tenants, one of them floods"),
            simulation: build.simulation(seed),
            marks: vec![
                Mark::TenantsGetTheirShare(2.0),
                Mark::FloodGetsItsLimit { tokens, off_percent: 2.0 },
                Mark::NoErrors,
            ],
            has_peers: false,
        }
    })
}
