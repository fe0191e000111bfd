use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn post(path: &str) -> Call {
    recognise(b"POST", path.as_bytes()).unwrap_or_else(|| panic!("{path} is not recognised"))
}

fn get(path: &str) -> Call {
    recognise(b"GET", path.as_bytes()).unwrap_or_else(|| panic!("{path} is not recognised"))
}

const AZURE: Endpoint<'static> = Endpoint {
    api: Api::Azure,
    base_path: "",
    deployment: "ptu",
    api_version: None,
    passthrough: false,
};
const AZURE_V1: Endpoint<'static> = Endpoint {
    api: Api::AzureV1,
    base_path: "",
    deployment: "ptu",
    api_version: None,
    passthrough: false,
};
const OPENAI: Endpoint<'static> = Endpoint {
    api: Api::OpenAi,
    base_path: "/v1",
    deployment: "ptu",
    api_version: None,
    passthrough: false,
};

#[test]
fn every_operation_of_the_sdks_is_recognised_in_all_three_shapes() {
    let table = [
        ("chat/completions", Operation::ChatCompletions),
        ("completions", Operation::Completions),
        ("embeddings", Operation::Embeddings),
        ("responses", Operation::Responses),
        ("responses/compact", Operation::Responses),
        ("images/generations", Operation::ImagesGenerations),
        ("images/edits", Operation::ImagesEdits),
        ("images/variations", Operation::ImagesEdits),
        ("audio/transcriptions", Operation::AudioTranscriptions),
        ("audio/translations", Operation::AudioTranslations),
        ("audio/speech", Operation::AudioSpeech),
        ("responses/resp_1/cancel", Operation::StoredResponses),
        ("chat/completions/chatcmpl-1", Operation::StoredResponses),
        ("realtime/client_secrets", Operation::RealtimeCalls),
        ("files", Operation::Files),
        ("batches", Operation::Batches),
        ("threads/thread_1/runs", Operation::Threads),
        ("fine_tuning/checkpoints/ft:gpt-4o:org::1/permissions", Operation::FineTuning),
        ("vector_stores/vs_1/file_batches/vsfb_1/files", Operation::VectorStores),
    ];
    for (suffix, operation) in table {
        let classic = post(&format!("/openai/deployments/gpt-4o/{suffix}?api-version=2024-10-21"));
        assert_eq!(classic.operation, operation, "{suffix}");
        assert_eq!(classic.api, Api::Azure);
        assert_eq!(classic.deployment.as_deref(), Some("gpt-4o"));
        assert_eq!(classic.api_version.as_deref(), Some("2024-10-21"));
        assert_eq!(classic.suffix, suffix);
        assert_eq!(classic.query, "");
        for (base, api) in
            [("/openai", Api::Azure), ("/openai/v1", Api::AzureV1), ("/v1", Api::OpenAi)]
        {
            let call = post(&format!("{base}/{suffix}"));
            assert_eq!(
                (call.operation, call.api, call.deployment, call.suffix.as_str()),
                (operation, api, None, suffix)
            );
        }
    }
}

#[test]
fn a_method_decides_between_creating_and_reading() {
    assert_eq!(get("/v1/models").operation, Operation::Models);
    assert_eq!(get("/openai/models/gpt-4o?api-version=1").operation, Operation::Models);
    assert_eq!(get("/v1/responses/resp_1").operation, Operation::StoredResponses);
    assert_eq!(get("/v1/responses/resp_1/input_items").suffix, "responses/resp_1/input_items");
    assert_eq!(get("/v1/responses").operation, Operation::ResponsesSession);
    assert_eq!(recognise(b"HEAD", b"/v1/models").unwrap().method, Method::Get);
}

#[test]
fn what_no_operation_is_known_for_is_not_recognised() {
    for (method, path) in [
        ("DELETE", "/v1/models/m"),
        ("GET", "/v1/chat/completions"),
        ("DELETE", "/v1/chat/completions"),
        ("GET", "/openai/deployments/gpt-4o/embeddings"),
        ("POST", "/openai/deployments/gpt-4o/unknown"),
        ("POST", "/openai/deployments/gpt-4o/chat"),
        ("DELETE", "/openai/deployments/gpt-4o"),
        ("GET", "/openai/deployments"),
        ("PUT", "/openai/deployments/gpt-4o"),
        ("POST", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1/input_items"),
        ("GET", "/v1/responses/resp_1/input_items/1"),
        ("POST", "/v1/chat/completions/id/messages"),
        ("POST", "/v1/organization/users"),
        ("GET", "/v1/organization/admin_api_keys"),
        ("POST", "/v1/Chat/Completions"),
        ("GET", "/v1/Files"),
        ("GET", "/V1/files"),
        ("GET", "/OpenAI/v1/files"),
        ("PATCH", "/v1/files/f"),
        ("PUT", "/v1/files/f"),
        ("OPTIONS", "/v1/chat/completions"),
        ("CONNECT", "/v1/chat/completions"),
        ("post", "/v1/chat/completions"),
        ("\u{ff}", "/v1/files"),
        ("", "/v1/files"),
    ] {
        assert_eq!(recognise(method.as_bytes(), path.as_bytes()), None, "{method} {path}");
    }
}

#[test]
fn a_segment_that_servers_could_read_differently_is_no_path() {
    for id in [
        "a%2Fb",
        "a%2fb",
        "a%252Fb",
        "a%25252fb",
        "..%2Ff",
        "%2e%2e",
        "%2E.",
        ".",
        "...",
        "a%5Cb",
        "a\\b",
        "a;b",
        "a%3Bb",
        "a%253bb",
        "a%00",
        "a%0a",
        "a%20b",
        "a b",
        "%",
        "a%2",
        "%u002f",
        "%c0%af",
        "\u{e9}",
        "a%3Fb",
        "a%23b",
        "a#b",
        "a&b",
        "a|b",
        "a%7f",
    ] {
        for path in [
            format!("/v1/files/{id}"),
            format!("/v1/files/{id}/content"),
            format!("/openai/v1/responses/{id}"),
            format!("/openai/deployments/gpt-4o/batches/{id}?api-version=2024-10-21"),
        ] {
            assert_eq!(recognise(b"GET", path.as_bytes()), None, "{path}");
            assert_eq!(recognise(b"DELETE", path.as_bytes()), None, "{path}");
        }
    }
    // What ids are made of passes, and an escape that nobody needs is resolved.
    for (id, plain) in [
        ("file-Ab_9.z~", "file-Ab_9.z~"),
        ("ft%3Agpt-4o:org%3A%3Aid", "ft:gpt-4o:org::id"),
        ("a@b+c=d,e", "a@b+c=d,e"),
        ("%66ile", "file"),
        ("a..b", "a..b"),
    ] {
        assert_eq!(get(&format!("/v1/files/{id}")).suffix, format!("files/{plain}"));
    }
}

#[test]
fn slashes_too_many_are_tolerated() {
    for path in [
        "//openai/deployments/gpt-4o/chat/completions",
        "/openai//deployments/gpt-4o/chat/completions/",
        "/openai/deployments/gpt-4o//chat/completions//?api-version=2024-10-21",
        "/%6fpenai/deployments/gpt%2D4o/ch%61t/completions",
    ] {
        let call = post(path);
        assert_eq!(call.operation, Operation::ChatCompletions, "{path}");
        assert_eq!(call.deployment.as_deref(), Some("gpt-4o"), "{path}");
        assert_eq!(call.suffix, "chat/completions", "{path}");
    }
}

#[test]
fn what_is_no_api_path_is_not_recognised() {
    for path in [
        "",
        "/",
        "?",
        "/openai",
        "/openai/",
        "/openai/v1",
        "/openai/v1/",
        "/v1",
        "/v2/models",
        "/healthz",
        "/openai.json",
        "/OPENAI/models",
        "/chat/completions",
        "/v1/../admin",
        "/openai/deployments/../x/chat",
        "/v1/realtimeapi/../files",
        "/v1/%2e%2E/admin",
        "/v1/./models",
    ] {
        assert_eq!(recognise(b"POST", path.as_bytes()), None, "{path}");
    }
}

#[test]
fn bytes_that_are_not_text_are_escaped_and_never_a_panic() {
    let call = recognise(b"GET", b"/v1/files?a=\xff b").unwrap();
    assert_eq!(call.query, "a=%FF%20b");
    let call = recognise(b"POST", b"/openai/deployments/\xff/embeddings").unwrap();
    assert_eq!(call.deployment.as_deref(), Some("\u{fffd}"));
    assert_eq!(recognise(b"GET", b"/v1/files/\xff"), None);
    assert_eq!(recognise(b"\xff", b"/v1/files"), None);
}

#[test]
fn credentials_in_the_query_go_nowhere_but_with_passthrough() {
    let call = get("/openai/files?api-version=2024-10-21&api-key=secret&limit=2&code=c&sig=s");
    assert_eq!(call.query, "limit=2");
    assert_eq!(render(&call, &AZURE), "/openai/files?api-version=2024-10-21&limit=2");
    let own = Endpoint { passthrough: true, ..AZURE };
    assert_eq!(render(&call, &own), "/openai/files?api-version=2024-10-21&api-key=secret&limit=2");
    let call = get("/v1/realtime?model=m&api%2Dkey=secret&intent=x");
    assert_eq!((call.query.as_str(), call.key_parameter), ("intent=x", None));
}

#[test]
fn no_parameter_names_another_deployment_than_the_one_that_was_chosen() {
    for path in [
        "/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        "/openai/responses/resp_1?api-version=2025-04-01-preview",
        "/openai/files?api-version=2024-10-21",
        "/openai/realtime?api-version=2025-04-01-preview",
    ] {
        for name in [
            "model",
            "deployment",
            "deployment-id",
            "deployment_id",
            "deploymentName",
            "Model",
            "%6dodel",
            "mod%2565l",
            "x=1;model",
            "engine",
        ] {
            let method = if path.contains("chat") { "POST" } else { "GET" };
            let path = format!("{path}&limit=2&{name}=other&after=x&model=gpt&deployment=other");
            let call = recognise(method.as_bytes(), path.as_bytes()).unwrap();
            let rendered = render(&call, &AZURE);
            assert_eq!(call.query, "limit=2&after=x", "{path}");
            assert!(!rendered.contains("other") && !rendered.contains("model="), "{rendered}");
        }
    }
    assert_eq!(get("/v1/files?remodel=1&models=2&metadata[model]=x").query.matches('=').count(), 3);
}

#[test]
fn what_is_done_with_responses_is_no_id_of_one() {
    for (method, path) in [
        ("GET", "/v1/responses/compact"),
        ("DELETE", "/v1/responses/compact"),
        ("GET", "/v1/responses/input_tokens"),
        ("GET", "/v1/responses/compact/input_items"),
        ("POST", "/v1/responses/compact/cancel"),
        ("GET", "/openai/responses/c%6fmpact?api-version=2025-04-01-preview"),
    ] {
        assert_eq!(recognise(method.as_bytes(), path.as_bytes()), None, "{method} {path}");
    }
    assert_eq!(get("/v1/responses/compact_1").operation, Operation::StoredResponses);
}

#[test]
fn a_session_of_responses_is_asked_for_where_a_resource_has_it() {
    for path in
        ["/v1/responses?model=m", "/openai/responses?api-version=2025-04-01-preview&model=m"]
    {
        let call = get(path);
        assert_eq!(call.operation, Operation::ResponsesSession);
        assert_eq!(call.deployment.as_deref(), Some("m"));
        assert_eq!(render(&call, &AZURE), "/openai/v1/responses");
        assert_eq!(render(&call, &AZURE_V1), "/openai/v1/responses");
        assert_eq!(render(&call, &OPENAI), "/v1/responses");
    }
}

#[test]
fn only_what_makes_a_model_work_is_charged() {
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/responses/compact", "/v1/embeddings"]
    {
        assert!(post(path).is_charged(), "{path}");
    }
    assert!(get("/v1/realtime?model=m").is_charged());
    for path in
        ["/v1/responses/input_tokens", "/v1/responses/resp_1/cancel", "/v1/files", "/v1/batches"]
    {
        assert!(!post(path).is_charged(), "{path}");
    }
    for path in ["/v1/responses/resp_1", "/v1/responses/resp_1?stream=true", "/v1/files"] {
        assert!(!get(path).is_charged(), "{path}");
    }
}

#[test]
fn what_creates_something_that_stays_is_not_repeated() {
    for path in [
        "/v1/files",
        "/v1/uploads",
        "/v1/batches",
        "/openai/deployments/d/batches",
        "/v1/fine_tuning/jobs",
        "/v1/vector_stores",
        "/v1/threads/t/runs",
        "/v1/assistants",
        "/v1/containers",
        "/v1/conversations",
        "/v1/evals",
        "/v1/videos",
        "/v1/realtime/calls",
    ] {
        assert!(!post(path).is_repeatable(), "{path}");
    }
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/responses/resp_1/cancel"] {
        assert!(post(path).is_repeatable(), "{path}");
    }
    assert!(get("/v1/files/f").is_repeatable());
    assert!(recognise(b"DELETE", b"/v1/files/f").unwrap().is_repeatable());
}

#[test]
fn a_deployment_may_be_called_chat() {
    let call = post("/openai/deployments/chat/chat/completions?api-version=2024-06-01");
    assert_eq!(call.deployment.as_deref(), Some("chat"));
    assert_eq!(
        render(&call, &AZURE),
        "/openai/deployments/ptu/chat/completions?api-version=2024-06-01"
    );
    let endpoint = Endpoint { deployment: "chat", ..AZURE };
    assert_eq!(
        render(&post("/v1/chat/completions"), &endpoint),
        "/openai/deployments/chat/chat/completions?api-version=2024-10-21"
    );
}

#[test]
fn a_call_is_rendered_in_each_shape() {
    let table = [
        (
            "/v1/embeddings?x=1&y=a%20b",
            "/openai/deployments/ptu/embeddings?api-version=2024-10-21&x=1&y=a%20b",
            "/openai/v1/embeddings?x=1&y=a%20b",
            "/v1/embeddings?x=1&y=a%20b",
        ),
        (
            "/openai/deployments/d/images/variations?api-version=2024-02-01",
            "/openai/deployments/ptu/images/variations?api-version=2024-02-01",
            "/openai/v1/images/variations",
            "/v1/images/variations",
        ),
        (
            "/openai/deployments/d/responses",
            "/openai/responses?api-version=2025-04-01-preview",
            "/openai/v1/responses",
            "/v1/responses",
        ),
        (
            "/openai/v1/responses/resp_1/cancel?api-version=preview",
            "/openai/responses/resp_1/cancel?api-version=2025-04-01-preview",
            "/openai/v1/responses/resp_1/cancel?api-version=preview",
            "/v1/responses/resp_1/cancel",
        ),
        (
            "/openai/deployments/d/batches?api-version=2024-10-21",
            "/openai/deployments/ptu/batches?api-version=2024-10-21",
            "/openai/v1/batches",
            "/v1/batches",
        ),
        (
            "/v1/files/file%2D1",
            "/openai/files/file-1?api-version=2025-04-01-preview",
            "/openai/v1/files/file-1",
            "/v1/files/file-1",
        ),
    ];
    for (path, azure, azure_v1, openai) in table {
        let call = post(path);
        assert_eq!(render(&call, &AZURE), azure);
        assert_eq!(render(&call, &AZURE_V1), azure_v1);
        assert_eq!(render(&call, &OPENAI), openai);
    }
}

#[test]
fn realtime_moves_its_deployment_between_the_parameters() {
    for path in [
        "/openai/realtime?api-version=2024-10-01-preview&deployment=rt%2D1&intent=x",
        "/v1/realtime?model=rt-1&intent=x",
        "/openai/v1/realtime?intent=x&model=rt-1",
    ] {
        let call = get(path);
        assert_eq!(call.operation, Operation::Realtime);
        assert_eq!(call.deployment.as_deref(), Some("rt-1"));
        assert_eq!(call.query, "intent=x");
        let version = call.api_version.clone().unwrap_or_else(|| API_VERSION_PREVIEW.to_owned());
        assert_eq!(
            render(&call, &AZURE),
            format!("/openai/realtime?api-version={version}&deployment=ptu&intent=x")
        );
        assert_eq!(render(&call, &AZURE_V1), "/openai/v1/realtime?model=ptu&intent=x");
        assert_eq!(render(&call, &OPENAI), "/v1/realtime?model=ptu&intent=x");
        assert!(!call.needs_model() && !model_in_body(&call, &OPENAI));
    }
    assert_eq!(
        render(&post("/v1/realtime/client_secrets"), &AZURE_V1),
        "/openai/v1/realtime/client_secrets"
    );
}

#[test]
fn the_backends_own_version_and_base_path_win() {
    let call = post("/openai/deployments/d/chat/completions?api-version=2023-05-15");
    let endpoint = Endpoint { api_version: Some("2025-01-01-preview"), ..AZURE };
    assert!(render(&call, &endpoint).ends_with("?api-version=2025-01-01-preview"));
    let endpoint = Endpoint { api_version: Some("preview"), ..AZURE_V1 };
    assert_eq!(render(&call, &endpoint), "/openai/v1/chat/completions?api-version=preview");
    let endpoint = Endpoint { base_path: "/api/openai/", ..OPENAI };
    assert_eq!(render(&call, &endpoint), "/api/openai/chat/completions");
}

#[test]
fn a_hostile_deployment_stays_one_segment() {
    let call = post("/v1/chat/completions");
    for deployment in ["a/../b", "..", "a?b#c", "ä b"] {
        let path = render(&call, &Endpoint { deployment, ..AZURE });
        let back = post(path.split('?').next().unwrap());
        assert_eq!(back.operation, Operation::ChatCompletions, "{path}");
        assert_eq!(back.deployment.unwrap(), deployment);
    }
}

#[test]
fn only_a_classic_deployment_path_leaves_the_model_out_of_the_body() {
    let chat = post("/v1/chat/completions");
    assert!(!model_in_body(&chat, &AZURE));
    assert!(model_in_body(&chat, &AZURE_V1) && model_in_body(&chat, &OPENAI));
    let responses = post("/openai/responses");
    for endpoint in [&AZURE, &AZURE_V1, &OPENAI] {
        assert!(model_in_body(&responses, endpoint));
        assert!(!model_in_body(&post("/v1/files"), endpoint));
    }
}

#[test]
fn the_model_is_needed_unless_the_path_names_a_deployment() {
    assert!(post("/v1/chat/completions").needs_model());
    assert!(post("/openai/responses").needs_model());
    assert!(!post("/openai/deployments/d/chat/completions").needs_model());
    assert!(!get("/v1/models").needs_model());
    assert!(!post("/v1/files").needs_model());
}

#[test]
fn calls_about_stored_objects_are_distinguished_from_calls_that_create_them() {
    for stored in [
        "files",
        "files/file-1/content",
        "threads",
        "assistants/a",
        "batches",
        "vector_stores/v/files",
        "containers",
        "fine_tuning/jobs",
        "conversations/c/items",
        "chat/completions/c",
        "realtime/calls/c/accept",
        "responses/resp_1/cancel",
    ] {
        assert!(post(&format!("/v1/{stored}")).names_stored_object(), "{stored}");
    }
    for free in
        ["responses", "responses/input_tokens", "chat/completions", "embeddings", "realtime/calls"]
    {
        assert!(!post(&format!("/openai/v1/{free}")).names_stored_object(), "{free}");
    }
    assert!(get("/v1/responses/resp_1").names_stored_object());
    assert!(!get("/v1/models/m").names_stored_object());
}

#[test]
fn stream_options_are_known_to_all_but_old_versions_of_the_classic_api() {
    let takes = |query: &str, endpoint: &Endpoint<'_>| {
        let path = format!("/openai/deployments/d/chat/completions{query}");
        takes_stream_options(&recognise(b"POST", path.as_bytes()).unwrap(), endpoint)
    };
    assert!(takes("", &AZURE) && takes("?api-version=2024-02-01", &OPENAI));
    assert!(takes("?api-version=2024-02-01", &AZURE_V1));
    for (version, is_taken) in [
        ("2024-02-01", false),
        ("2024-08-01-preview", false),
        ("2024-09-01-preview", true),
        ("2024-10-21", true),
        ("2025-04-01-preview", true),
        ("2023", false),
    ] {
        assert_eq!(takes(&format!("?api-version={version}"), &AZURE), is_taken, "{version}");
        let own = Endpoint { api_version: Some(version), ..AZURE };
        assert_eq!(takes("?api-version=2024-02-01", &own), is_taken, "{version}");
    }
}
