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

mod attempt;
mod contexts;
mod details;
mod exports;
mod gateway;
mod host;
mod pool;
mod request;
mod root;
mod told;
