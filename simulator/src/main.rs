//! Runs the scenarios, or the user's own configuration, and prints the figures.

mod arguments;
mod own;
mod plot;
mod publish;
mod report;

use arguments::Command;
use report::Outcome;
use simulator::figures::Figures;
use simulator::scenarios::{self, Scenario};
use simulator::simulation::Kind;
use std::process::ExitCode;
use std::thread;

fn main() -> ExitCode {
    match Command::read(std::env::args().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Help => println!("{}", Command::help()),
        Command::Own { seed, own } => println!("{}", own::report(&own, seed)?),
        Command::Random { seed, count } => print_random(seed, count)?,
        Command::Scenarios { seed, only } => {
            print_scenarios(&named(scenarios::all(seed), &only)?)?;
        }
        Command::Write { seed } => {
            publish::write(&print_scenarios(&scenarios::all(seed))?, seed)?;
        }
    }
    Ok(())
}

fn print_scenarios(scenarios: &[Scenario]) -> Result<Vec<Outcome>, String> {
    let outcomes = each(scenarios, report::outcome)?;
    println!("{}", report::table(&outcomes));
    println!("{}", report::comparison(&outcomes));
    Ok(outcomes)
}

/// The scenarios whose names contain a text.
fn named(scenarios: Vec<Scenario>, text: &str) -> Result<Vec<Scenario>, String> {
    let (found, others): (Vec<Scenario>, Vec<Scenario>) =
        scenarios.into_iter().partition(|scenario| scenario.name.contains(text));
    if found.is_empty() {
        let names: Vec<String> = others.into_iter().map(|it| format!("  {}", it.name)).collect();
        let names = names.join("\n");
        return Err(format!("--only: no scenario contains `{text}`, expected a part of:\n{names}"));
    }
    Ok(found)
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

/// Prints the broken promises of random scenarios (attempts too early, and at a backend that had failed the request),
/// and figures for comparison.
fn print_random(seed: u64, count: u64) -> Result<(), String> {
    let seeds: Vec<u64> = (seed..seed.saturating_add(count)).collect();
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
        println!(
            "most errors while a backend had room: {} at seed {seed}",
            figures.needless_errors
        );
    }
    Ok(())
}

/// The gateways of a scenario.
fn kinds(scenario: &Scenario) -> &'static [Kind] {
    if scenario.has_peers { &Kind::ALL } else { &[Kind::Clairvoyant, Kind::Spillway] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_no_scenario_contains_is_an_error_that_lists_their_names() {
        let found = named(scenarios::all(1), "34 s, silent").unwrap();
        assert!(!found.is_empty() && found.iter().all(|it| it.name.contains("34 s, silent")));
        let error = named(scenarios::all(1), "no such thing").unwrap_err();
        assert!(error.starts_with("--only: no scenario contains `no such thing`"), "{error}");
        assert!(scenarios::all(1).iter().all(|it| error.contains(&it.name)), "{error}");
    }
}
