//! Trail and log state why a connection was not made.

use crate::harness::{Gateway, eventually, first_elsewhere, forgetful};
use serde_json::json;
use std::net::Ipv4Addr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// A first backend that Envoy reaches over TLS, and a second one.
async fn start(port: u16) -> Gateway {
    first_elsewhere(port)
        .pool(forgetful())
        .adjust(|bootstrap| {
                bootstrap.cluster("first")["transport_socket"] = json!({
                    "name": "tls",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
                    }
                });
            })
        .start()
        .await
}

async fn fails_over(gateway: &Gateway, trail: &str, log: &str) {
    for _ in 0..3 {
        let response = gateway.chat_served_by("second").await;
        assert_eq!(response.header("x-spillway-trail"), Some(trail));
    }
    eventually("the log says why", async || gateway.envoy.log().contains(log)).await;
    assert_eq!(gateway.envoy.log().matches(log).count(), 1, "{}", gateway.envoy.log());
}

#[tokio::test]
async fn a_failure_of_tls_is_reported() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let gateway = start(port).await;
    fails_over(&gateway, "first;connect;reason=tls, second;200", "TLS failed at backend first")
        .await;
    plain.abort();
}

#[tokio::test]
async fn a_handshake_that_hangs_is_a_connection_that_was_not_made() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
        }
    });
    let gateway = start(port).await;
    fails_over(
        &gateway,
        "first;connect;reason=timeout, second;200",
        "no connection at backend first",
    )
    .await;
    silent.abort();
}
