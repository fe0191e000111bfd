//! Spillway: an Envoy filter that fills provisioned Azure OpenAI capacity first and spills the rest.

pub mod config;
pub mod openai;
pub mod policy;
