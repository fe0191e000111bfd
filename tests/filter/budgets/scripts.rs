//! What backends do with the attempts of an epoch, and what each of them takes.

use crate::envoy::Script;
use crate::random::Random;
use spillway::policy::tokens::estimate::{Estimate, UsedTokens};

/// What a backend does with an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    /// A whole response in two parts; the second one has the usage, if it is stated.
    Json { usage: Option<UsedTokens> },
    /// This many events with content and then the usage, if it is stated.
    Stream { events: usize, usage: Option<UsedTokens>, ends: Ends },
    /// Nothing reaches the client.
    Fails(Failure),
    /// The client's own fault.
    Refuses,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Ends {
    Well,
    Broken,
    Never,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    Throttled,
    Status,
    NoConnection,
    Reset,
    EmptyStream,
    Silence,
}

fn usage_text(usage: UsedTokens) -> String {
    let UsedTokens { prompt_tokens, cached_tokens, completion_tokens } = usage;
    format!(
        r#"{{"prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens},"prompt_tokens_details":{{"cached_tokens":{cached_tokens}}}}}"#
    )
}

impl Behaviour {
    pub(super) fn random(
        random: &mut Random,
        estimate: Estimate,
        phase: Phase,
        cluster: &str,
    ) -> Self {
        let factor = if phase == Phase::Lying { 3 } else { 1 };
        let mut up_to = |tokens: u64| random.next() % (factor * tokens + 1);
        let (prompt_tokens, completion_tokens) =
            (up_to(estimate.prompt_tokens), up_to(estimate.completion_tokens.min(2_000)));
        let cached_tokens = up_to(prompt_tokens).min(prompt_tokens);
        let usage = UsedTokens { prompt_tokens, cached_tokens, completion_tokens };
        let usage = (random.below(3) > 0).then_some(usage);
        // What a 429 does to the level of a bucket depends on the order of requests.
        let first = if cluster == "a" && phase != Phase::Steps { 1 } else { 0 };
        // Without limits and faults they take all that others deny, so that nothing passes a limit.
        let highest = if matches!(cluster, "d" | "e") && phase != Phase::Steps { 82 } else { 100 };
        match random.below(highest) {
            0..30 => Self::Json { usage },
            30..78 => {
                let ends = random.pick(&[Ends::Well, Ends::Well, Ends::Broken, Ends::Never]);
                Self::Stream { events: 1 + random.below(6), usage, ends }
            }
            78..82 => Self::Refuses,
            number => Self::Fails(match (number, first) {
                (82, 0) => Failure::Throttled,
                (83..88, _) => Failure::Status,
                (88..91, _) => Failure::NoConnection,
                (91..94, _) => Failure::Reset,
                (94..97, _) => Failure::Silence,
                _ => Failure::EmptyStream,
            }),
        }
    }

    pub(super) fn script(self) -> Script {
        match self {
            Self::Json { usage } => {
                let usage = usage.map_or_else(|| "null".to_owned(), usage_text);
                let script = Script::ok().body(r#"{"choices":[{"message":{"content":"a"}}],"#);
                script.chunk(format!(r#""usage":{usage}}}"#).as_bytes())
            }
            Self::Stream { events, usage, ends } => {
                const EVENT: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
                let mut script =
                    (0..events).fold(Script::events(&[]), |script, _| script.chunk(EVENT));
                if let Some(usage) = usage {
                    let usage = usage_text(usage);
                    let event = format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n");
                    script = script.chunk(event.as_bytes());
                }
                match ends {
                    Ends::Well => script.chunk(b"data: [DONE]\n\n"),
                    Ends::Broken => script.then_reset(),
                    Ends::Never => script.then_stall(),
                }
            }
            Self::Fails(Failure::Throttled) => Script::throttled(1),
            Self::Fails(Failure::Status) => Script::status(500),
            Self::Fails(Failure::NoConnection) => Script::connect_failure(),
            Self::Fails(Failure::Reset) => Script::reset(),
            Self::Fails(Failure::EmptyStream) => Script::events(&[]).then_reset(),
            Self::Fails(Failure::Silence) => Script::silence(),
            Self::Refuses => Script::status(400),
        }
    }

    /// Whether a backend counts a request to which it did this, and that was served by none or another.
    pub(super) fn is_counted(self) -> bool {
        !matches!(self, Self::Fails(Failure::Throttled | Failure::NoConnection) | Self::Refuses)
    }

    /// What it cost when this many parts of it came: what was stated, otherwise the best guess.
    pub(super) fn used(self, estimate: Estimate, parts: usize) -> UsedTokens {
        match self {
            Self::Json { usage: Some(usage) } if parts == 2 => usage,
            Self::Json { .. } => estimate.into(),
            Self::Stream { events, usage: Some(usage), .. } if parts > events => usage,
            Self::Stream { events, .. } => UsedTokens {
                completion_tokens: parts.min(events) as u64,
                ..UsedTokens::from(estimate)
            },
            // Its head was held for as long as it may be, and then nothing followed.
            Self::Fails(Failure::EmptyStream) => {
                UsedTokens { completion_tokens: 0, ..UsedTokens::from(estimate) }
            }
            Self::Fails(_) | Self::Refuses => UsedTokens::default(),
        }
    }
}

/// What the time of an epoch is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The clock stands, and nobody uses more than was expected.
    Honest,
    /// The clock stands.
    Lying,
    /// The clock goes, and is set.
    Steps,
}

impl Phase {
    pub(super) fn of(epoch: u64) -> Self {
        [Self::Honest, Self::Lying, Self::Honest, Self::Steps][usize::try_from(epoch % 4).unwrap()]
    }
}
