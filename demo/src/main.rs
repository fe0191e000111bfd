//! The demo: a story with a load in front of real Envoy, ending in a verdict on every promise.
//!
//! The demo shows that the promises hold. It overloads the gateway and fails a region while clients use it,
//! shows what happens, and exits non-zero when a promise breaks.
//!
//! * [`stage`]: mocks and Envoy, started here or running already.
//! * [`story`]: the chapters; [`load`] and [`call`] are the applications.
//! * [`observe`] collects, [`table`] shows, [`figures`] computes, [`promises`] judges.

mod call;
mod figures;
mod load;
mod observe;
mod promises;
mod stage;
mod story;
mod table;

use std::pin::pin;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use figures::Figures;
use observe::arrivals;
use stage::{PROVISIONED, REGION, Scenery, Stage};
use table::Screen;

const HELP: &str = "\
Shows and measures what Spillway promises, in real Envoy, in about half a minute.

Usage: demo [--running]
  Without arguments it starts three mock backends and Envoy, and stops them at the end.
  --running   uses those that run already where envoy/envoy.yaml has them (docker compose)

Exit code: 0 all promises kept, 1 one is broken, 2 the demo could not run, 130 interrupted.";

const BROKEN: u8 = 1;
const TROUBLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let is_running = match arguments.as_slice() {
        [] => false,
        ["--running"] => true,
        ["--help" | "-h"] => {
            Screen::new().print(&[HELP.to_owned()]);
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(TROUBLE);
        }
    };
    run(is_running).await.unwrap_or_else(|trouble| {
        eprintln!("demo: {trouble}");
        ExitCode::from(TROUBLE)
    })
}

/// An interruption at any time stops everything that the demo started.
async fn run(is_running: bool) -> Result<ExitCode, String> {
    let mut interruption = pin!(interruption());
    let mut stage = tokio::select! {
        stage = Stage::set(is_running) => stage?,
        code = &mut interruption => return Ok(code),
    };
    let scenery = stage.scenery.clone();
    tokio::select! {
        verdict = perform(&scenery) => verdict,
        end = stage.envoy_ended() => Err(end),
        code = interruption => Ok(code),
    }
}

/// Plays the story and judges it.
async fn perform(scenery: &Scenery) -> Result<ExitCode, String> {
    let mut screen = Screen::new();
    let seen = story::play(scenery, &mut screen).await?;
    // Read only now: during the story this would be additional load.
    let provisioned = arrivals(&scenery.backends[PROVISIONED]).await?;
    let region = arrivals(&scenery.backends[REGION]).await?;
    let promises = promises::judge(&Figures::of(&seen, &provisioned, &region));
    screen.print(&[String::new()]);
    screen.print(&promises::summary(&promises, screen.style));
    let kept = promises::all_kept(&promises);
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

/// Waits for a signal that ends the demo early, and returns the exit code that a shell expects after it.
async fn interruption() -> ExitCode {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hang_up] =
        kinds.map(|kind| signal(kind).expect("a system with signals"));
    let kind = tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
        _ = hang_up.recv() => SignalKind::hangup(),
    };
    let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
    eprintln!("\ndemo: stopped by a signal; taking everything down");
    ExitCode::from(number.saturating_add(128))
}
