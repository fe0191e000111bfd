//! Simulates the user's own configuration and traffic.

use crate::arguments::{Own, Traffic};
use crate::report::{self, Outcome};
use simulator::load::{Load, Request};
use simulator::scenarios::Scenario;
use simulator::simulation::{Kind, Simulation, deployments};
use simulator::spillway::Setup;
use simulator::trace;
use std::fs;

/// The consumer of every request, as a position in the load's consumers.
const ONLY_CONSUMER: usize = 0;

/// What was simulated, and the figures.
///
/// # Errors
/// A file cannot be read, or contains a mistake.
pub(crate) fn report(own: &Own, seed: u64) -> Result<String, String> {
    let document = read(&own.document)?;
    let in_document = |error| format!("{}: {error}", own.document);
    let setup = Setup::new(&document).map_err(in_document)?;
    let (requests, seconds) = requests(&own.traffic, seed)?;
    let simulation = Simulation {
        deployments: deployments(&document).map_err(in_document)?,
        document,
        requests,
        patience_ms: setup.policy.failover.max_wait.as_ms(),
        replicas: own.replicas,
        workers: 4,
        seed,
    };
    let mut text = heading(&setup, &simulation, seconds);
    let name = own.document.clone();
    let scenario = Scenario { name, simulation, marks: Vec::new(), has_peers: true };
    let outcome = report::outcome(&scenario)?;
    text.extend(limited(&outcome));
    Ok(format!("{text}\n{}", report::comparison(&[outcome])))
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

/// The requests, and the seconds in which they arrive.
fn requests(traffic: &Traffic, seed: u64) -> Result<(Vec<Request>, f64), String> {
    match traffic {
        Traffic::Trace(path) => {
            let requests =
                trace::from_csv(&read(path)?, seed).map_err(|error| format!("{path}: {error}"))?;
            let seconds = requests.last().map_or(0.0, |last| last.at_ms as f64 / 1_000.0);
            Ok((requests, seconds))
        }
        Traffic::Synthetic { seconds, per_second } => {
            Ok((Load::chats(*seconds, *per_second).requests(seed), *seconds as f64))
        }
    }
}

/// A line that says what was simulated.
fn heading(setup: &Setup, simulation: &Simulation, seconds: f64) -> String {
    let Simulation { requests, replicas, seed, .. } = simulation;
    let others = match setup.other_pools.as_slice() {
        [] => String::new(),
        others => format!(" (the default pool; not simulated: {})", others.join(", ")),
    };
    format!(
        "Simulated: pool {}{others}, {} requests in {seconds} s, seed {seed}, replicas: {replicas}.\n",
        setup.pool,
        requests.len(),
    )
}

/// A line about the requests over the limit of their consumer, if there were any.
fn limited(outcome: &Outcome) -> Option<String> {
    let (_, own) = outcome.rows.iter().find(|(kind, _)| *kind == Kind::Spillway)?;
    (own.limited > 0).then(|| {
        format!(
            "Over the limit of the consumer {}, who sends all requests: {}. Spillway refused them; they are not client \
             errors.\nOnly Spillway limits consumers, so its tokens are not compared with the optimum (–).\n",
            Setup::consumer(ONLY_CONSUMER),
            own.limited,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::PathBuf;

    /// Reports on a configuration and a trace, each in a file of its own.
    fn reported(name: &str, document: &str, trace: &str) -> Result<String, String> {
        let folder: PathBuf = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            fs::write(folder.join(name), text).unwrap();
            folder.join(name).display().to_string()
        };
        let (document, trace) = (file("pools.json", document), file("trace.csv", trace));
        let text = report(&Own { document, traffic: Traffic::Trace(trace), replicas: 2 }, 7);
        fs::remove_dir_all(&folder).unwrap();
        text
    }

    fn pool(name: &str) -> Value {
        json!({ "name": name, "backends": [{ "name": format!("at-{name}"), "host": "a.openai.azure.com" }] })
    }

    const TRACE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n0,500,20\n1.5,500,20\n";

    #[test]
    fn the_report_begins_with_what_was_simulated() {
        let one = json!({ "pools": [pool("chat")] }).to_string();
        let text = reported("one", &one, TRACE).unwrap();
        let heading = "Simulated: pool chat, 2 requests in 1.5 s, seed 7, replicas: 2.\n\n**";
        assert!(text.starts_with(heading), "{text}");
        let two =
            json!({ "pools": [pool("chat"), pool("mini"), pool("large")], "default_pool": "mini" });
        let text = reported("several", &two.to_string(), TRACE).unwrap();
        let heading = "Simulated: pool mini (the default pool; not simulated: chat, large), ";
        assert!(text.starts_with(heading), "{text}");
    }

    #[test]
    fn requests_over_the_limit_of_their_consumer_are_reported() {
        let consumers = json!({ "header": "x-consumer", "default": { "tokens_per_minute": 600 } });
        let document = json!({ "pools": [pool("chat")], "consumers": consumers }).to_string();
        let text = reported("limited", &document, TRACE).unwrap();
        assert!(text.contains("\nOver the limit of the consumer tenant-0, "), "{text}");
        assert!(text.contains("who sends all requests: 1."), "{text}");
        assert!(text.contains("| Spillway | 0 | 0 | – | – |"), "{text}");
    }

    #[test]
    fn the_optimum_waits_as_long_as_the_configuration_allows() {
        let errors = |max_wait: &str| {
            let mut pool = pool("chat");
            pool["backends"][0]["limits"] = json!({ "requests_per_minute": 6 });
            pool["failover"] = json!({ "max_wait": max_wait });
            let text = reported("waiting", &json!({ "pools": [pool] }).to_string(), TRACE).unwrap();
            [0, 1].map(|errors| text.contains(&format!("| the optimum | {errors} |")))
        };
        assert_eq!((errors("30s"), errors("0s")), ([true, false], [false, true]));
    }

    #[test]
    fn an_error_names_its_file() {
        let one = json!({ "pools": [pool("chat")] }).to_string();
        let error = reported("wrong-trace", &one, &format!("{TRACE}2,x,1\n")).unwrap_err();
        assert!(error.contains("trace.csv: line 4: found `x`"), "{error}");
        let error = reported("wrong-json", "{", TRACE).unwrap_err();
        assert!(error.contains("pools.json: configuration: not valid JSON"), "{error}");
    }
}
