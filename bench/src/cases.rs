//! What is compared with what.

use crate::gateway::{Kind, Program};
use crate::load::{Flavour, Question};
use crate::measure::{Case, Work};

const BARE: Kind = Kind {
    name: "bare Envoy",
    program: Program::BareEnvoy,
    backends: 1,
    budgets: false,
    failing: false,
    workers: 1,
};
const WITH_RETRIES: Kind =
    Kind { name: "bare Envoy with retries", program: Program::BareWithRetries, ..BARE };
const FLOOR: Kind =
    Kind { name: "filters that do nothing", program: Program::Floor, backends: 3, ..BARE };
const HOST_CALLS: Kind =
    Kind { name: "Spillway's host calls alone", program: Program::HostCalls, ..FLOOR };
const THREE: Kind =
    Kind { name: "Spillway, 3 backends", program: Program::Spillway, backends: 3, ..BARE };
const SIXTEEN: Kind = Kind { name: "Spillway, 16 backends", backends: 16, ..THREE };
const SIXTY_FOUR: Kind = Kind { name: "Spillway, 64 backends", backends: 64, ..THREE };
/// Spillway with everything that it does for each request.
pub(crate) const BUDGETS: Kind = Kind { name: "Spillway, budgets", budgets: true, ..THREE };
const FAILOVER: Kind = Kind { name: "Spillway, first attempt fails", failing: true, ..THREE };
const BARE_TWICE: Kind = Kind { name: "bare Envoy, 2 workers", workers: 2, ..BARE };
const THREE_TWICE: Kind = Kind { name: "Spillway, 2 workers", workers: 2, ..THREE };

const LITELLM: Kind = Kind { name: "LiteLLM", program: Program::LiteLlm, ..BARE };
const PORTKEY: Kind = Kind { name: "Portkey", program: Program::Portkey, ..BARE };

const SMALL: Work = Work::Requests(&[document(Flavour::OpenAi, 1024)]);
const OF_AZURES_SDK: Work = Work::Requests(&[document(Flavour::Azure, 1024)]);
const MEDIUM: Work = Work::Requests(&[document(Flavour::OpenAi, 100 * 1024)]);
const LARGE: Work = Work::Requests(&[document(Flavour::OpenAi, 1024 * 1024)]);
/// Prompts of 100 000 tokens, at four bytes each; every other response is a stream.
const LONG_PROMPTS: Work = Work::Requests(&[
    document(Flavour::OpenAi, 400_000),
    Question { events: Some(10), ..document(Flavour::OpenAi, 400_000) },
]);

const fn document(flavour: Flavour, body_bytes: usize) -> Question {
    Question { flavour, body_bytes, events: None }
}

/// All comparisons.
pub(crate) const CASES: [Case; 10] = [
    Case {
        name: "1 KB, 1 connection",
        work: SMALL,
        connections: 1,
        kinds: &[BARE, WITH_RETRIES, FLOOR, HOST_CALLS, THREE, BUDGETS],
    },
    Case {
        name: "1 KB, 32 connections",
        work: SMALL,
        connections: 32,
        kinds: &[BARE, WITH_RETRIES, FLOOR, HOST_CALLS, THREE, BUDGETS, FAILOVER],
    },
    Case {
        name: "1 KB, Azure's SDK, 32 connections",
        work: OF_AZURES_SDK,
        connections: 32,
        kinds: &[BARE, WITH_RETRIES, THREE, BUDGETS],
    },
    Case {
        name: "100 KB, 8 connections",
        work: MEDIUM,
        connections: 8,
        kinds: &[BARE, WITH_RETRIES, THREE, BUDGETS],
    },
    Case {
        name: "1 MB, 4 connections",
        work: LARGE,
        connections: 4,
        kinds: &[BARE, WITH_RETRIES, FLOOR, HOST_CALLS, THREE, BUDGETS],
    },
    Case {
        name: "100 000 tokens, half streamed, 8 connections",
        work: LONG_PROMPTS,
        connections: 8,
        kinds: &[BARE, WITH_RETRIES, THREE, BUDGETS],
    },
    Case {
        name: "an event of a stream, 16 connections",
        work: Work::Events { few: 10, many: 110 },
        connections: 16,
        kinds: &[BARE, WITH_RETRIES, FLOOR, THREE, BUDGETS],
    },
    Case {
        name: "pools, 32 connections",
        work: SMALL,
        connections: 32,
        kinds: &[THREE, SIXTEEN, SIXTY_FOUR],
    },
    Case {
        name: "bare Envoy's workers, 32 connections",
        work: SMALL,
        connections: 32,
        kinds: &[BARE, BARE_TWICE],
    },
    Case {
        name: "Spillway's workers, 32 connections",
        work: SMALL,
        connections: 32,
        kinds: &[THREE, THREE_TWICE],
    },
];

/// Comparisons with other gateways.
pub(crate) const PEERS: [Case; 3] = [
    Case {
        name: "peers: 1 KB, 1 connection",
        work: SMALL,
        connections: 1,
        kinds: &[BARE, THREE, LITELLM, PORTKEY],
    },
    Case {
        name: "peers: 1 KB, 32 connections",
        work: SMALL,
        connections: 32,
        kinds: &[BARE, THREE, LITELLM, PORTKEY],
    },
    Case {
        name: "peers: an event of a stream, 2 connections",
        work: Work::Events { few: 10, many: 110 },
        connections: 2,
        kinds: &[BARE, THREE, LITELLM, PORTKEY],
    },
];
