//! The demo: a story with a load in front of real Envoy, ending in a verdict on every promise.
//!
//! A promise that nobody sees kept is only text. The demo puts the gateway through an overload and the
//! loss of a region while clients use it, shows what happens, and exits non-zero when a promise breaks.
//!
//! * [`args`], [`trouble`]: what is asked for, and why it cannot be done.
//! * [`stage`]: mocks and Envoy, started here or running already; [`http`] speaks to them.
//! * [`story`]: the chapters; [`load`] and [`client`] are the applications.
//! * [`observe`] collects, [`table`] shows, [`figures`] computes, [`promises`] judges.

mod args;
mod client;
mod figures;
mod http;
mod load;
mod observe;
mod promises;
mod stage;
mod story;
mod table;
mod trouble;

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use args::Args;
use figures::Figures;
use http::Http;
use observe::{Observations, arrivals};
use stage::{Backend, Scenery, Stage};
use table::Screen;
use trouble::Trouble;

const BROKEN: u8 = 1;
const TROUBLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(trouble) => {
            eprintln!("demo: {trouble}");
            ExitCode::from(TROUBLE)
        }
    }
}

async fn run() -> Result<ExitCode, Trouble> {
    let args = args::parse(std::env::args().skip(1))?;
    if args == Args::Help {
        Screen::new().print(&[args::HELP.to_owned()]);
        return Ok(ExitCode::SUCCESS);
    }
    let mut interruption = Interruption::new()?;
    let http = Http::new();
    // Interrupted while it is being built, the stage takes itself down.
    let mut stage = tokio::select! {
        stage = set_up(&http, args) => stage?,
        code = interruption.code() => return Ok(code),
    };
    let scenery = stage.scenery.clone();
    let end = tokio::select! {
        verdict = perform(&http, &scenery) => verdict,
        trouble = stage.envoy_ended() => Err(trouble),
        code = interruption.code() => Ok(code),
    };
    stage.strike().await;
    end
}

async fn set_up(http: &Http, args: Args) -> Result<Stage, Trouble> {
    match args {
        Args::Own { envoy, module } => Stage::build(http, &envoy, &module).await,
        Args::Running { gateway, admin, backends } => {
            let backends = backends.into_iter().map(|(name, url)| Backend { name, url }).collect();
            Stage::visit(http, Scenery { gateway, admin, backends }).await
        }
        Args::Help => Err(Trouble::Usage("nothing to set up".to_owned())),
    }
}

/// Plays the story and judges it.
async fn perform(http: &Http, scenery: &Scenery) -> Result<ExitCode, Trouble> {
    let mut screen = Screen::new();
    let seen = story::play(http, scenery, &mut screen).await?;
    let figures = measure(http, scenery, &seen).await?;
    let promises = promises::judge(&figures);
    screen.print(&[String::new()]);
    screen.print(&promises::summary(&promises, screen.style));
    let kept = promises::all_kept(&promises);
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

/// Reads the mocks' records, which would have been a load of their own during the story.
async fn measure(http: &Http, scenery: &Scenery, seen: &Observations) -> Result<Figures, Trouble> {
    let mut recorded = Vec::new();
    for backend in scenery.backends.first().into_iter().chain(scenery.backends.last()) {
        let arrivals = arrivals(http, backend).await;
        recorded.push(arrivals.map_err(|because| Trouble::Silent {
            what: format!("the records of {}", backend.name),
            because,
        })?);
    }
    let of = |place: usize| recorded.get(place).map(Vec::as_slice).unwrap_or_default();
    Ok(Figures::of(seen, of(0), of(1)))
}

/// The signals that end the demo early.
struct Interruption {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interruption {
    fn new() -> Result<Self, Trouble> {
        let listen = |kind| signal(kind).map_err(Trouble::system("listening to signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// The exit code that a shell expects after the signal that came.
    async fn code(&mut self) -> ExitCode {
        let number = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
        };
        let number = u8::try_from(number.as_raw_value()).unwrap_or_default();
        eprintln!("\ndemo: stopped by a signal; taking everything down");
        ExitCode::from(number.saturating_add(128))
    }
}
