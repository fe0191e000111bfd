//! The only place that knows Envoy. It translates callbacks into questions to the core, and the core's answers into
//! host calls. It decides nothing.
//!
//! Its folders, from the top; each uses only those below it:
//!
//! - `root`: a plugin and its configuration.
//! - `attempt`: the upstream filter, once per attempt. It makes the request fit its backend and watches the response.
//! - `gateway`: the downstream filter, once per request. It lets requests in and finishes their responses.
//! - `request`: one request in flight, as both roles see it.
//! - `pool`: a configuration made ready to run, and what attempts showed about their backends.
//! - `host`: every call to Envoy, and what is built on the calls alone.
//!
//! Both roles are one module in one VM per worker. They meet in `request::in_flight`. A worker is one thread, so the
//! requests there need no lock. `host::shared` contains what workers must agree on.
//!
//! Several enums describe how something continues or ends:
//!
//! | enum | question | who asks |
//! |---|---|---|
//! | `host::Action` | does the stream continue, or is it held? | Envoy, at each callback |
//! | `attempt::response`'s `State` | how far is the response to this attempt? | the attempt, when more of it comes |
//! | `Outcome` (core) | what did the attempt show? | `pool::health`, metrics, the trail |
//! | `Next` (core) | is there another attempt, a wait, or a stop? | `gateway::progress`, `attempt::response` |
//! | `request::Stage` | how far is the request, and what does the client get? | `request::finish` |
//! | `request::OnItsWay` | which response did not end yet? | `gateway`, when the request ends |
//! | `FinalResponse` (core) | what does the client get of a request that failed? | `request::finish` |
//! | `request::finish::Finish` | does the response pass, or what replaces it? | `gateway`, before the client sees it |
//! | `Settlement` (core) | how did a reservation end? | `pool::budget` |

mod attempt;
mod exports;
mod gateway;
mod host;
mod pool;
mod request;
mod root;
