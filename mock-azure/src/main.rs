//! `mock-azure`: one mock backend as a program, for the demo and for docker compose.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use mock_azure::{Kind, Mock, MockConfig};
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
A backend that keeps Azure OpenAI's rules, and breaks them on demand.

Usage: mock-azure [OPTION VALUE]...

  --listen ADDRESS       where to listen (default 127.0.0.1:8080)
  --name NAME            the first word of every generated text (default mock)
  --region NAME          the value of x-ms-region (default Mock Central)
  --api-key-env NAME     ask for the key in this environment variable
  --deployment NAME      a deployment that exists; repeatable (default: every name)
  --standard-tpm N       pay as you go with this many tokens per minute
  --standard-rpm N       requests per minute (default: six per 1000 tokens)
  --ptu-tpm N            provisioned, draining this many tokens per minute
  --ptu-burst N          tokens at 100 % utilisation (default: ten seconds' drain)
  --first-byte-ms N      delay of the response headers (default 0)
  --per-chunk-ms N       delay of each event of a stream (default 0)
  --completion-tokens N  tokens of a text answer (default 16)
  --refusals N           refuse what is wrong with a request itself, and more than N tokens

Faults, records and settings: see POST /_mock/fault, GET /_mock/records, GET /_mock/stats and
PUT /_mock/config on the same port.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let outcome = Options::parse(arguments).and_then(|options| {
        let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
        runtime.block_on(serve(options)).map_err(|error| error.to_string())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("mock-azure: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let name = options.config.name.clone();
    let mock = Mock::start_on(options.listen, options.config).await?;
    println!("{name} listens on {}", mock.address());
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    mock.finish().await
}

/// The command line.
struct Options {
    listen: SocketAddr,
    config: MockConfig,
}

impl Options {
    fn parse(arguments: Vec<String>) -> Result<Self, String> {
        let mut listen = SocketAddr::from(([127, 0, 0, 1], 8080));
        let mut config = MockConfig::default();
        let (mut standard, mut requests) = (None, None);
        let (mut provisioned, mut burst) = (None, None);
        let mut arguments = arguments.into_iter();
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
            let number = || {
                value.parse::<u64>().map_err(|_| format!("{option} {value}: not a whole number"))
            };
            match option.as_str() {
                "--listen" => {
                    let wrong = |_| format!("--listen {value}: not an address like 0.0.0.0:8080");
                    listen = value.parse().map_err(wrong)?;
                }
                "--name" => config.name = value,
                "--region" => config.region = value,
                "--api-key-env" => {
                    let missing = |_| format!("environment variable {value} is not set");
                    config.api_key = Some(std::env::var(&value).map_err(missing)?);
                }
                "--deployment" => config.deployments.push(value),
                "--standard-tpm" => standard = Some(number()?),
                "--standard-rpm" => requests = Some(number()?),
                "--ptu-tpm" => provisioned = Some(number()?),
                "--ptu-burst" => burst = Some(number()?),
                "--first-byte-ms" => {
                    config.latency.first_byte = Duration::from_millis(number()?);
                }
                "--per-chunk-ms" => config.latency.per_chunk = Duration::from_millis(number()?),
                "--completion-tokens" => config.completion_tokens = number()?,
                "--refusals" => {
                    config.refusals = true;
                    config.request_tokens_max = Some(number()?);
                }
                _ => return Err(format!("unknown option {option}; --help lists all")),
            }
        }
        config.kind = match (standard, provisioned) {
            (Some(_), Some(_)) => {
                return Err("--standard-tpm and --ptu-tpm exclude each other".to_owned());
            }
            (Some(tokens_per_minute), None) => Kind::Standard {
                tokens_per_minute,
                requests_per_minute: requests.unwrap_or(tokens_per_minute.div_ceil(1000) * 6),
            },
            (None, Some(tokens_per_minute)) => Kind::Provisioned {
                tokens_per_minute,
                burst_tokens: burst.unwrap_or(tokens_per_minute / 6),
            },
            (None, None) => Kind::Unlimited,
        };
        Ok(Self { listen, config })
    }
}
