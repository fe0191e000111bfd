//! Measures what Spillway adds to Envoy: both in one run, in turns, on the same machine.
//!
//! `bench --envoy PATH --module PATH --floor PATH [OPTIONS]`

mod cases;
mod cpu;
mod envoy;
mod gateway;
mod load;
mod measure;
mod memory;
mod report;
mod upstream;
mod wire;

use cases::CASES;
use gateway::Place;
use measure::Effort;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use tokio::net::TcpListener;
use upstream::Manner;

const HELP: &str = "\
Measures what Spillway costs beside bare Envoy.

Usage: bench --envoy PATH --module PATH --floor PATH [OPTIONS]
  --floor PATH    the module of filters that do nothing
  --quick         a few short rounds
  --only TEXT     only the comparisons whose name contains it
  --write         also write the figures into docs/performance.md and docs/performance.svg
  --memory        instead: the memory of each VM after many requests
  --requests N    how many; 1000000 otherwise";

#[derive(Default)]
struct Args {
    envoy: PathBuf,
    module: PathBuf,
    floor: PathBuf,
    quick: bool,
    write: bool,
    only: String,
    memory: bool,
    requests: usize,
}

fn main() -> ExitCode {
    let Some(args) = parse(std::env::args().skip(1)) else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("bench: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Args> {
    let mut args = Args { requests: 1_000_000, ..Args::default() };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--envoy" => args.envoy = arguments.next()?.into(),
            "--module" => args.module = arguments.next()?.into(),
            "--floor" => args.floor = arguments.next()?.into(),
            "--only" => args.only = arguments.next()?,
            "--requests" => args.requests = arguments.next()?.parse().ok()?,
            "--quick" => args.quick = true,
            "--write" => args.write = true,
            "--memory" => args.memory = true,
            _ => return None,
        }
    }
    let paths = [&args.envoy, &args.module, &args.floor];
    paths.iter().all(|path| !path.as_os_str().is_empty()).then_some(args)
}

fn run(args: &Args) -> io::Result<()> {
    let place = Place {
        envoy: args.envoy.clone(),
        module: args.module.clone(),
        floor: args.floor.clone(),
        serving_port: upstream_port(Manner::Serves)?,
        failing_port: upstream_port(Manner::Fails)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.memory {
        return runtime.block_on(memory::run(args.requests, &place));
    }
    let effort = if args.quick {
        Effort { starts: 1, rounds: 3, round: Duration::from_millis(500) }
    } else {
        Effort { starts: 3, rounds: 3, round: Duration::from_millis(1500) }
    };
    let mut all = Vec::new();
    for case in CASES.iter().filter(|case| case.name.contains(&args.only)) {
        let figures = runtime.block_on(measure::case(case, effort, &place))?;
        println!("{}\n", report::table(&figures));
        if let Some(scaling) = report::scaling(&figures) {
            println!("{scaling}\n");
        }
        all.extend(figures);
    }
    if args.write {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        report::write(&docs, &all, &report::machine(&version(&args.envoy)?, effort))?;
    }
    Ok(())
}

/// Starts an upstream in a thread of its own, where it disturbs the load as little as it can.
fn upstream_port(manner: Manner) -> io::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => upstream::serve(listener, manner).await,
                Err(trouble) => eprintln!("bench: {trouble}"),
            }
        });
    });
    Ok(port)
}

/// `1.40.0` of `envoy  version: …/1.40.0/Clean/RELEASE/BoringSSL`.
fn version(envoy: &Path) -> io::Result<String> {
    let output = Command::new(envoy).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split('/').nth(1).unwrap_or("of an unknown version").to_owned())
}
