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
mod peers;
mod plot;
mod quiet;
mod report;
mod upstream;
mod wire;

use cases::{CASES, PEERS};
use gateway::Place;
use measure::Effort;
use peers::Peers;
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
  --loaded        also while other programs use the machine
  --only TEXT     only the comparisons whose name contains it
  --write         also write the figures into docs/performance.md and docs/performance.svg
  --peers         also LiteLLM and Portkey, which are installed into target/peers
  --memory        instead: the memory of each VM after many requests
  --requests N    how many; 1000000 otherwise";

const THOROUGH: Effort =
    Effort { starts: 9, rounds: 1, round: Duration::from_millis(1500), loaded: false };
const QUICK: Effort =
    Effort { starts: 1, rounds: 2, round: Duration::from_millis(300), loaded: false };
/// Their differences are large, and they are slow to start.
const AMONG_PEERS: Effort =
    Effort { starts: 1, rounds: 3, round: Duration::from_millis(1500), loaded: false };

#[derive(Default)]
struct Args {
    envoy: PathBuf,
    module: PathBuf,
    floor: PathBuf,
    quick: bool,
    loaded: bool,
    write: bool,
    peers: bool,
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
            "--loaded" => args.loaded = true,
            "--write" => args.write = true,
            "--peers" => args.peers = true,
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
        peers: args.peers.then(Peers::install).transpose()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.memory {
        return runtime.block_on(memory::run(args.requests, &place));
    }
    let with_load = |effort| Effort { loaded: args.loaded, ..effort };
    let effort = with_load(if args.quick { QUICK } else { THOROUGH });
    let cases = CASES.iter().map(|case| (case, effort));
    let peers = PEERS.iter().filter(|_| args.peers).map(|case| (case, with_load(AMONG_PEERS)));
    let mut all = Vec::new();
    for (case, effort) in cases.chain(peers).filter(|(case, _)| case.name.contains(&args.only)) {
        if !args.loaded {
            quiet::wait()?;
        }
        let figures = runtime.block_on(measure::case(case, effort, &place))?;
        println!("{}\n", report::table(&figures));
        if let Some(scaling) = report::scaling(&figures) {
            println!("{scaling}\n");
        }
        all.extend(figures);
    }
    if args.write {
        let mut versions = format!("Envoy {}", version(&args.envoy)?);
        if let Some(peers) = &place.peers {
            versions = format!("{versions}, {}", peers.versions);
        }
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        report::write(&docs, &all, &report::machine(&versions, effort))?;
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

fn version(envoy: &Path) -> io::Result<String> {
    let output = Command::new(envoy).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(version_in(&text).unwrap_or("of an unknown version").to_owned())
}

/// `1.40.0` of `/usr/bin/envoy  version: 0a1b2c/1.40.0/Clean/RELEASE/BoringSSL`.
fn version_in(text: &str) -> Option<&str> {
    text.split_once("version: ")?.1.split('/').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envoy_with_slashes_in_its_path_has_a_version_too() {
        let text = "\n/usr/bin/envoy  version: 0a1b2c/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(version_in(text), Some("1.40.0"));
        assert_eq!(version_in("what is this"), None);
    }
}
