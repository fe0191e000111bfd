//! Random scenarios.

use crate::azure::{Capacity, Deployment, Fault, Period, Speed};
use crate::load::{Load, Pattern};
use crate::random::Random;
use crate::simulation::Simulation;
use serde_json::{Value, json};

/// The simulation of a seed: one to six backends, a minute or two of load, and faults at any time.
pub fn random(seed: u64) -> Simulation {
    let mut random = Random::new(seed);
    let count = 1 + random.below(6) as usize;
    let seconds = 30 + random.below(90);
    let deployments: Vec<Deployment> =
        (0..count).map(|backend| deployment(backend, seconds, &mut random)).collect();
    let backends: Vec<Value> =
        deployments.iter().map(|deployment| backend(deployment, &mut random)).collect();
    let max_wait_s = [0, 0, 2, 10][random.below(4) as usize];
    let failover = json!({
        "max_wait": format!("{max_wait_s}s"),
        "first_byte_timeout": format!("{}s", 5 + random.below(30)),
    });
    let pool = json!({ "name": "any", "backends": backends, "failover": failover });
    let pattern = match random.below(3) {
        0 => Pattern::Bursts { on_s: 5, off_s: 5 + random.below(20), on: 4.0, off: 0.3 },
        _ => Pattern::Steady,
    };
    let load = Load { pattern, ..Load::chats(seconds, 0.5 + 8.0 * random.unit()) };
    Simulation {
        document: json!({ "pools": [pool] }).to_string(),
        deployments,
        requests: load.requests(random.number()),
        patience_ms: max_wait_s * 1_000,
        replicas: 1 + random.below(3) as usize,
        workers: 1 + random.below(8) as usize,
        seed: random.number(),
    }
}

fn deployment(backend: usize, seconds: u64, random: &mut Random) -> Deployment {
    let tokens_per_minute = 20_000 + random.below(400_000);
    let capacity = if random.chance(35) {
        Capacity::Provisioned {
            tokens_per_minute,
            burst_tokens: tokens_per_minute * (1 + random.below(10)) / 60,
            output_weight: 1 + random.below(8),
            corrects: random.chance(80),
        }
    } else {
        let requests_per_minute = tokens_per_minute * 6 / 1_000;
        Capacity::Standard { tokens_per_minute, requests_per_minute }
    };
    let faults = (0..random.below(3)).map(|_| {
        let from_ms = random.below(seconds * 1_000);
        let until_ms = from_ms + 100 + random.below(40_000);
        let fault = match random.below(7) {
            0 => Fault::Status(503),
            1 => Fault::Status(500),
            2 => Fault::Refused,
            3 => Fault::Silent,
            4 => Fault::Errors { percent: 5 + random.below(60) },
            5 => Fault::Lowered { percent: 10 + random.below(80) },
            _ => Fault::Slow { factor: 2 + random.below(8) },
        };
        Period { from_ms, until_ms, fault }
    });
    Deployment {
        name: format!("backend-{backend}"),
        capacity,
        faults: faults.collect(),
        speed: Speed {
            base_ms: 20 + random.below(400),
            prompt_per_s: 1_000 + random.below(20_000),
            output_per_s: 20 + random.below(200),
            jitter_percent: random.below(60),
        },
        counts_permille: 700 + random.below(600),
        quota: None,
    }
}

/// The configuration of a deployment. Its limits may be missing or wrong.
fn backend(deployment: &Deployment, random: &mut Random) -> Value {
    let mut value = json!({
        "name": deployment.name,
        "host": format!("{}.openai.azure.com", deployment.name),
        "priority": 1 + random.below(3),
        "weight": random.below(4),
    });
    let off = 70 + random.below(60);
    match deployment.capacity {
        _ if random.chance(40) => {}
        Capacity::Provisioned { tokens_per_minute, burst_tokens, output_weight, .. } => {
            value["provisioned"] = json!({
                "ptus": 10,
                "input_tokens_per_minute_per_ptu": (tokens_per_minute * off / 1_000).max(1),
                "output_token_weight": output_weight,
                "burst_tokens": burst_tokens,
            });
        }
        Capacity::Standard { tokens_per_minute, requests_per_minute } => {
            value["limits"] = json!({
                "tokens_per_minute": tokens_per_minute * off / 100,
                "requests_per_minute": (requests_per_minute * off / 100).max(1),
            });
        }
    }
    value
}
