//! Common to all scenarios: one region with provisioned throughput, and two with pay-as-you-go.

use crate::azure::{Capacity, Deployment, Fault, Period, Speed};
use crate::load::{Load, Pattern};
use crate::simulation::Simulation;
use serde_json::{Value, json};

/// The drain of the provisioned deployment: 100 units of 2500 normalised tokens per minute.
const PROVISIONED_TPM: u64 = 250_000;
const OUTPUT_WEIGHT: u64 = 4;
/// How long requests arrive.
const SECONDS: u64 = 3_600;
/// The share of its limit that a tenant uses, and the factor for a tenant that floods.
const TENANT_USES: f64 = 0.4;
const FLOOD: f64 = 5.0;

/// A short description of a scenario.
#[derive(Clone, Copy, Debug)]
pub(super) struct Build {
    /// The load, in percent of the capacity of provisioned throughput.
    pub(super) percent: u64,
    pub(super) pattern: Pattern,
    /// The size of the bucket, as the seconds that it takes to drain.
    pub(super) bucket_s: u64,
    pub(super) corrects: bool,
    /// Whether all requests ask for streams; `None`: half of them.
    pub(super) streams: Option<bool>,
    /// Whether `provisioned` is configured.
    pub(super) is_configured: bool,
    /// Whether `limits` are configured.
    pub(super) has_limits: bool,
    pub(super) standard_tpm: u64,
    pub(super) shares_quota: bool,
    pub(super) counts_permille: u64,
    pub(super) max_wait_s: u64,
    pub(super) replicas: usize,
    pub(super) tenants: usize,
    /// Backend, beginning and length in seconds, fault.
    pub(super) outage: Option<(usize, u64, u64, Fault)>,
}

/// The usual case.
pub(super) const SERVICE: Build = Build {
    percent: 150,
    pattern: Pattern::Steady,
    bucket_s: 10,
    corrects: true,
    streams: None,
    is_configured: true,
    has_limits: false,
    standard_tpm: 400_000,
    shares_quota: false,
    counts_permille: 1_000,
    max_wait_s: 0,
    replicas: 1,
    tenants: 0,
    outage: None,
};

impl Build {
    pub(super) fn simulation(&self, seed: u64) -> Simulation {
        Simulation {
            document: self.document().to_string(),
            deployments: self.deployments(),
            requests: self.load().requests(seed),
            patience_ms: self.max_wait_s * 1_000,
            replicas: self.replicas,
            workers: 4,
            seed,
        }
    }

    fn load(&self) -> Load {
        let mut load = Load::chats(self.seconds(), 1.0);
        let per_second = PROVISIONED_TPM as f64 / 60.0 / load.mean_tokens(OUTPUT_WEIGHT as f64);
        load.per_second = per_second * self.percent as f64 / 100.0;
        load.pattern = self.pattern;
        if let Some(streams) = self.streams {
            load.streams_percent = if streams { 100 } else { 0 };
        }
        if self.tenants > 0 {
            load.consumers = vec![TENANT_USES; self.tenants];
            load.consumers[0] = FLOOD;
        }
        load
    }

    fn seconds(&self) -> u64 {
        self.outage.map_or(SECONDS, |(_, from_s, length_s, _)| from_s + length_s + 120)
    }

    /// The length of the load in minutes.
    pub(super) fn minutes(&self) -> u64 {
        self.seconds() / 60
    }

    fn deployments(&self) -> Vec<Deployment> {
        let provisioned = Capacity::Provisioned {
            tokens_per_minute: PROVISIONED_TPM,
            burst_tokens: self.burst_tokens(),
            output_weight: OUTPUT_WEIGHT,
            corrects: self.corrects,
        };
        let standard = Capacity::Standard {
            tokens_per_minute: self.standard_tpm,
            requests_per_minute: self.standard_rpm(),
        };
        let capacity = |backend| match backend {
            0 if !self.shares_quota => provisioned,
            _ => standard,
        };
        let names = NAMES.into_iter().enumerate();
        names
            .map(|(backend, name)| Deployment {
                name: name.to_owned(),
                capacity: capacity(backend),
                speed: Speed::default(),
                counts_permille: self.counts_permille,
                faults: self.faults(backend),
                quota: self.shares_quota.then_some(1),
            })
            .collect()
    }

    fn faults(&self, backend: usize) -> Vec<Period> {
        let outage = self.outage.filter(|(broken, ..)| *broken == backend);
        let period = |(_, from_s, length_s, fault)| Period {
            from_ms: from_s * 1_000,
            until_ms: (from_s + length_s) * 1_000,
            fault,
        };
        outage.map(period).into_iter().collect()
    }

    fn burst_tokens(&self) -> u64 {
        PROVISIONED_TPM * self.bucket_s / 60
    }

    /// As at Azure: six requests per thousand tokens.
    fn standard_rpm(&self) -> u64 {
        self.standard_tpm * 6 / 1_000
    }

    fn document(&self) -> Value {
        let backends: Vec<Value> = (0..NAMES.len()).map(|backend| self.backend(backend)).collect();
        let mut pool = json!({
            "name": "gpt-4o",
            "backends": backends,
            "failover": {
                "max_wait": format!("{}s", self.max_wait_s),
                "first_byte_timeout": "20s",
            },
        });
        if self.shares_quota {
            let members = pool["backends"].as_array_mut().into_iter().flatten();
            members.for_each(|backend| backend["quota_group"] = json!("subscription"));
        }
        let mut document = json!({ "pools": [pool] });
        if self.tenants > 0 {
            let limit = self.tenant_limit();
            let default = json!({ "tokens_per_minute": limit });
            // Listed, so that no two tenants share a record.
            let named =
                (0..self.tenants).map(|tenant| (format!("tenant-{tenant}"), default.clone()));
            let named: serde_json::Map<String, Value> = named.collect();
            document["consumers"] =
                json!({ "header": "x-consumer", "default": default, "by_name": named });
        }
        document
    }

    fn backend(&self, backend: usize) -> Value {
        let is_provisioned = backend == 0 && !self.shares_quota;
        let mut value = json!({
            "name": NAMES[backend],
            "host": format!("{}.openai.azure.com", NAMES[backend]),
            "priority": if is_provisioned { 1 } else { 2 },
        });
        if is_provisioned && self.is_configured {
            value["provisioned"] = json!({
                "ptus": 100,
                "input_tokens_per_minute_per_ptu": PROVISIONED_TPM / 100,
                "output_token_weight": OUTPUT_WEIGHT,
                "burst_tokens": self.burst_tokens(),
            });
        }
        if !is_provisioned && self.has_limits {
            value["limits"] = json!({
                "tokens_per_minute": self.standard_tpm,
                "requests_per_minute": self.standard_rpm(),
            });
        }
        value
    }

    /// A tenant's limit. It is based on its share of the load's tokens, of which it uses less.
    pub(super) fn tenant_limit(&self) -> u64 {
        let load = self.load();
        let tokens = load.per_second * 60.0 * load.mean_tokens(1.0);
        (tokens / load.consumers.iter().sum::<f64>()) as u64
    }
}

/// The deployments, the provisioned one first.
const NAMES: [&str; 3] = ["uksouth", "sweden", "france"];
