//! The only place that knows Envoy. It translates callbacks into questions to the core and the
//! core's answers into host calls; it decides nothing.
//!
//! Its rooms, from the top; each knows those below it:
//!
//! - `root`: a plugin and its configuration.
//! - `attempt`: the upstream filter, once per try. It makes the request fit its backend and watches the response.
//! - `gateway`: the downstream filter, once per request. It lets requests in and finishes their responses.
//! - `request`: one request in flight, as both roles see it.
//! - `pool`: a configuration made ready to run, and what an attempt taught about its backend.
//! - `host`: every call to Envoy, and what is built on the calls alone.
//!
//! Both roles are one module in one VM per worker. They meet in `request::in_flight`. A worker is one thread,
//! so the requests there need no lock; what workers must agree on goes through `host::shared`.
//!
//! Several enums say how something goes on or ends:
//!
//! | enum | what it answers | who asks |
//! |---|---|---|
//! | `host::Action` | does the stream go on, or is it held? | Envoy, at each callback |
//! | `attempt::response`'s `State` | how far is the response to this attempt? | the attempt, when more of it comes |
//! | `Outcome` (core) | what did the attempt show? | `pool::health`, metrics, the trail |
//! | `Next` (core) | is there another attempt, a wait, or a stop? | `gateway::progress`, `attempt::response` |
//! | `request::Stage` | how far is the request, and what does the client get? | `request::finish` |
//! | `request::OnItsWay` | which response did not end yet? | `gateway`, when the request ends |
//! | `FinalResponse` (core) | what does the client get of a request that failed? | `request::finish` |
//! | `request::finish::Finish` | does the response pass, or what replaces it? | `gateway`, before the client sees it |
//! | `Settlement` (core) | what did a reservation come to? | `pool::budget` |

mod attempt;
mod exports;
mod gateway;
mod host;
mod pool;
mod request;
mod root;
