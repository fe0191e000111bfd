//! A backend that keeps Azure OpenAI's rules, and breaks them on demand.
