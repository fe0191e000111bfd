//! What each backend receives: made for it, and otherwise what the client sent, byte for byte.

use crate::harness::{
    Asking, CHAT, Gateway, Setup, assert_for, deployment_of, first_and_second, forgetful,
};
use bytes::Bytes;
use hyper::Method;
use mock_azure::{Fault, body_hash};
use serde_json::json;

const ALL: [Asking; 3] = [Asking::Chat, Asking::ChatStream, Asking::ResponsesStream];

const NAMES: [&str; 3] = ["first", "second", "third"];

/// The API shapes in every order.
const ORDERS: [[&str; 3]; 6] = [
    ["azure", "azure_v1", "openai"],
    ["azure", "openai", "azure_v1"],
    ["azure_v1", "azure", "openai"],
    ["azure_v1", "openai", "azure"],
    ["openai", "azure", "azure_v1"],
    ["openai", "azure_v1", "azure"],
];

fn unavailable() -> Fault {
    Fault::status(503)
}

fn throttled() -> Fault {
    Fault::throttle(1)
}

/// Three backends, asked in this order, with these API shapes.
async fn three(apis: [&str; 3]) -> Gateway {
    let mut setup = Setup::new().pool(forgetful());
    for (priority, (name, api)) in NAMES.into_iter().zip(apis).enumerate() {
        setup = setup.backend(name, json!({"priority": priority + 1, "api": api}));
    }
    setup.start().await
}

fn path_at(api: &str, asking: Asking, name: &str) -> String {
    match api {
        "azure" => asking.classic_path(name),
        "azure_v1" => format!("/openai{}", asking.path()),
        _ => asking.path().to_owned(),
    }
}

fn body_at(api: &str, asking: Asking, name: &str) -> String {
    match api {
        "azure" => asking.classic_body(name),
        _ => asking.body_for(&deployment_of(name)),
    }
}

#[tokio::test]
async fn nothing_of_one_backends_rewriting_is_left_at_the_next() {
    for apis in ORDERS {
        let gateway = three(apis).await;
        for asking in ALL {
            let what = format!("{apis:?} {asking:?}");
            gateway.mock("first").push_fault(unavailable());
            gateway.mock("second").push_fault(Fault::ResetBeforeHeaders);
            let response = asking.send(&gateway).await;
            asking.assert_answered(&response, &what);
            let trail = response.header("x-spillway-trail");
            assert_eq!(trail, Some("first;503, second;reset, third;200"), "{what}");
            for (name, api) in NAMES.into_iter().zip(apis) {
                let record = gateway.records(name).pop().unwrap();
                assert_for(&record, name, &what);
                assert_eq!(record.path, path_at(api, asking, name), "{what} {name}");
                let body = body_at(api, asking, name);
                assert_eq!(record.body, body.as_bytes(), "{what} {name}");
                let credential = if api == "openai" { "authorization" } else { "api-key" };
                assert!(record.header(credential).is_some(), "{what} {name}");
            }
        }
        assert_eq!(gateway.counts(), [3, 3, 3]);
    }
}

#[tokio::test]
async fn a_client_of_azure_is_served_by_backends_of_every_shape() {
    // Its path names the model, so its body need not.
    let path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-06-01&extra=a%20b";
    let body = r#"{ "messages" : [{"role":"user","content":"Hi \u00fc"}]}"#;
    let gateway = three(["azure", "azure_v1", "openai"]).await;
    gateway.mock("first").push_fault(unavailable());
    gateway.mock("second").push_fault(throttled());
    let headers = [("content-type", "application/json"), ("api-key", "key-of-the-client")];
    let response =
        gateway.client.send(Method::POST, path, &headers, Bytes::from(body)).await.unwrap();
    assert_eq!((response.status, response.served_by()), (200, "third"), "{}", response.text());
    let received = NAMES.map(|name| gateway.records(name).pop().unwrap());
    for (record, name) in received.iter().zip(NAMES) {
        assert_for(record, name, name);
    }
    let paths = received.each_ref().map(|record| record.path.as_str());
    assert_eq!(
        paths,
        [
            "/openai/deployments/gpt-4o-first/chat/completions?api-version=2024-06-01&extra=a%20b",
            "/openai/v1/chat/completions?extra=a%20b",
            "/v1/chat/completions?extra=a%20b",
        ]
    );
    assert_eq!(received[0].body, body.as_bytes());
    for (record, name) in received.iter().zip(NAMES).skip(1) {
        let inserted = format!(r#""model":"{}","#, deployment_of(name));
        let text = String::from_utf8_lossy(&record.body);
        assert!(text.contains(&inserted), "{text}");
        assert_eq!(text.replacen(&inserted, "", 1), body);
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_edited_for_each_backend() {
    let gateway = three(["azure_v1", "openai", "azure"]).await;
    let asking = Asking::Chat;
    let body = asking.body();
    for _ in 0..2 {
        gateway.mock("first").push_fault(unavailable());
        gateway.mock("second").push_fault(Fault::ResetBeforeHeaders);
        let parts: Vec<Bytes> = body.as_bytes().chunks(7).map(Bytes::copy_from_slice).collect();
        let response = gateway.client.send_in_parts(asking.path(), parts).await;
        assert_eq!((response.status, response.served_by()), (200, "third"), "{}", response.text());
        for (name, api) in NAMES.into_iter().zip(["azure_v1", "openai", "azure"]) {
            let record = gateway.records(name).pop().unwrap();
            assert_for(&record, name, name);
            assert_eq!(record.body, body_at(api, asking, name).as_bytes(), "{name}");
        }
    }
}

/// Where in a long body the model is named.
#[derive(Clone, Copy, Debug)]
enum Place {
    Front,
    Back,
}

/// A chat request of 12 MiB.
fn long_body(place: Place, model: &str) -> Bytes {
    let text = "An ü, a \\\"quote\\\" and \\u00e9. ".repeat((12 << 20) / 30 + 1);
    let messages = format!(r#""messages":[{{"role":"user","content":"{text}"}}]"#);
    let model = format!(r#""model":"{model}""#);
    let body = match place {
        Place::Front => format!("{{{model},{messages}}}"),
        Place::Back => format!("{{{messages},{model}}}"),
    };
    assert!(body.len() > 12 << 20);
    Bytes::from(body)
}

#[tokio::test]
async fn a_body_of_12_mib_fails_over_unchanged() {
    let gateway = first_and_second().start().await;
    for (place, fault) in [(Place::Back, throttled()), (Place::Front, Fault::ResetBeforeHeaders)] {
        let body = long_body(place, "gpt-4o");
        let hash = body_hash(&body);
        gateway.mock("first").push_fault(fault);
        let headers = [("content-type", "application/json")];
        let response = gateway.client.send(Method::POST, CHAT, &headers, body).await.unwrap();
        assert_eq!((response.status, response.served_by()), (200, "second"), "{}", response.text());
        for name in ["first", "second"] {
            let record = gateway.records(name).pop().unwrap();
            assert_for(&record, name, name);
            assert_eq!(record.body_hash, hash, "{place:?} {name}");
        }
    }
    assert_eq!(gateway.counts(), [2, 2]);
}

#[tokio::test]
async fn a_body_of_12_mib_is_edited_for_each_backend_wherever_it_names_the_model() {
    for place in [Place::Front, Place::Back] {
        let gateway = three(["azure_v1", "openai", "azure_v1"]).await;
        gateway.mock("first").push_fault(throttled());
        gateway.mock("second").push_fault(Fault::ResetBeforeHeaders);
        let headers = [("content-type", "application/json")];
        let body = long_body(place, "gpt-4o");
        let response = gateway.client.send(Method::POST, CHAT, &headers, body).await.unwrap();
        assert_eq!((response.status, response.served_by()), (200, "third"), "{}", response.text());
        for name in NAMES {
            let record = gateway.records(name).pop().unwrap();
            assert_for(&record, name, &format!("{place:?} {name}"));
            let hash = body_hash(&long_body(place, &deployment_of(name)));
            assert_eq!(record.body_hash, hash, "{place:?} {name}");
        }
    }
}
