//! Runs the scenarios, or the user's own configuration, and prints the figures.

mod arguments;
mod plot;
mod publish;
mod report;

use arguments::{Arguments, Own};
use report::Outcome;
use simulator::figures::Figures;
use simulator::load::{self, Load};
use simulator::scenarios::{self, Scenario};
use simulator::simulation::{Kind, Simulation, deployments};
use std::fs;
use std::process::ExitCode;
use std::thread;

fn main() -> ExitCode {
    match Arguments::read(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if let Some(own) = &arguments.own {
        return print_own(own, arguments.seed);
    }
    if let Some(count) = arguments.random {
        return print_random(arguments.seed, count);
    }
    let mut scenarios = scenarios::all(arguments.seed);
    scenarios.retain(|scenario| scenario.name.contains(&arguments.only));
    let outcomes = each(&scenarios, report::outcome)?;
    println!("{}", report::table(&outcomes));
    println!("{}", report::comparison(&outcomes));
    if arguments.writes {
        publish::write(&outcomes, arguments.seed)?;
    }
    Ok(())
}

/// Applies a function to each of `items`, on all processors, and keeps their order.
fn each<T: Sync, R: Send>(
    items: &[T],
    act: impl Fn(&T) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let act = &act;
    let mut found: Vec<(usize, Result<R, String>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let own = items.iter().enumerate().skip(worker).step_by(threads);
                scope.spawn(move || own.map(|(at, item)| (at, act(item))).collect::<Vec<_>>())
            })
            .collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
    });
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, result)| result).collect()
}

fn print_own(own: &Own, seed: u64) -> Result<(), String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let document = read(&own.document)?;
    let requests = match &own.trace {
        Some(trace) => load::from_csv(&read(trace)?, seed)?,
        None => Load::chats(own.seconds, own.per_second).requests(seed),
    };
    let simulation = Simulation {
        deployments: deployments(&document)?,
        document,
        requests,
        patience_ms: 0,
        replicas: own.replicas,
        workers: 4,
        seed,
    };
    let name = own.document.clone();
    let scenario = Scenario { name, simulation, marks: Vec::new(), has_peers: true };
    println!("{}", report::comparison(&[report::outcome(&scenario)?]));
    Ok(())
}

/// Prints which random scenarios break a guarantee.
fn print_random(seed: u64, count: u64) -> Result<(), String> {
    let seeds: Vec<u64> = (seed..seed + count).collect();
    let found = each(&seeds, |seed| {
        let simulation = scenarios::random(*seed);
        let measure =
            |kind| simulation.run(kind).map(|record| Figures::of(&record, &simulation.deployments));
        let mut own = measure(Kind::Spillway)?;
        // Replicas do not know about each other, and a pool of one has no other backend to ask.
        if simulation.replicas > 1 || simulation.deployments.len() == 1 {
            own.too_early = 0;
        }
        Ok((*seed, own, measure(Kind::Clairvoyant)?))
    })?;
    let sum = |of: &dyn Fn(&Figures) -> u64| found.iter().map(|(_, it, _)| of(it)).sum::<u64>();
    println!("{count} scenarios, {} requests", sum(&|it| it.requests as u64));
    println!("errors: {}", sum(&|it| it.errors as u64));
    println!("errors of the optimum: {}", found.iter().map(|it| it.2.errors).sum::<usize>());
    println!("errors while a backend had room: {}", sum(&|it| it.needless_errors as u64));
    println!("attempts too early: {}", sum(&|it| it.too_early));
    println!("attempts at a backend that had failed the request: {}", sum(&|it| it.tried_twice));
    let worst = found.iter().max_by_key(|(_, it, _)| it.needless_errors);
    if let Some((seed, figures, _)) = worst.filter(|it| it.1.needless_errors > 0) {
        println!("most of them at seed {seed}: {}", figures.needless_errors);
    }
    Ok(())
}

/// The gateways of a scenario.
fn kinds(scenario: &Scenario) -> &'static [Kind] {
    if scenario.has_peers { &Kind::ALL } else { &[Kind::Clairvoyant, Kind::Spillway] }
}
