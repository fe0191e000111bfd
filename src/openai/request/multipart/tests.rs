#![allow(clippy::arithmetic_side_effects, clippy::string_slice, reason = "tests fail by panicking")]

use super::*;
use crate::openai::random::Random;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn scan_in(slices: &[&[u8]]) -> Result<BodyFacts, Malformed> {
    let mut scanner = MultipartScanner::new(b"xyz");
    for slice in slices {
        scanner.push(slice);
    }
    scanner.finish()
}

/// The facts of `body`, having checked that no other way of cutting it gives different ones.
fn scan(body: &str) -> Result<BodyFacts, Malformed> {
    let body = body.as_bytes();
    let whole = scan_in(&[body]);
    for at in 0..=body.len() {
        assert_eq!(scan_in(&[&body[..at], &body[at..]]), whole, "cut at {at}");
    }
    for len in 1..5 {
        assert_eq!(scan_in(&body.chunks(len).collect::<Vec<_>>()), whole, "slices of {len}");
    }
    whole
}

fn facts(body: &str) -> BodyFacts {
    scan(body).unwrap_or_else(|error| panic!("{body}: {error:?}"))
}

fn raw(body: &str, span: Span) -> &[u8] {
    let at = usize::try_from(span.at).unwrap();
    &body.as_bytes()[at..at + usize::try_from(span.len).unwrap()]
}

fn part(name: &str, value: &str) -> String {
    format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file(content: &str) -> String {
    format!(
        "--xyz\r\ncontent-type: audio/wav\r\nCONTENT-DISPOSITION: form-data; name=\"file\"; filename=\"name=model.wav\"\r\n\r\n{content}\r\n"
    )
}

#[test]
fn a_form_states_its_facts() {
    let body = file("RIFF\r\n--xy\r\r\n-")
        + &part("model", "whisper-1")
        + &part("stream", "true")
        + &part("prompt", "Grüße")
        + &part("user", "u")
        + &part("n", "3")
        + "--xyz--\r\n";
    let facts = facts(&body);
    let model = facts.model.unwrap();
    assert_eq!(model.value, "whisper-1");
    assert_eq!(raw(&body, model.span), b"whisper-1");
    assert_eq!(facts.model_insertion, None);
    assert!(facts.stream && facts.user.is_some());
    assert_eq!(facts.prompt_text_bytes, 7);
    assert_eq!(facts.choices, Some(3));
    assert_eq!(facts.size, body.len() as u64);
}

#[test]
fn an_absent_model_can_be_inserted_as_the_first_part() {
    for preamble in ["", "\r\n", "This is a form.\r\n"] {
        let body = preamble.to_owned() + &file("RIFF") + "--xyz--";
        let insertion = facts(&body).model_insertion.unwrap();
        assert_eq!(insertion.at, preamble.len() as u64);
        let middle = [&*insertion.prefix, b"m", &*insertion.suffix].concat();
        let edited = format!(
            "{preamble}{}{}",
            String::from_utf8(middle).unwrap(),
            body.strip_prefix(preamble).unwrap()
        );
        assert_eq!(facts(&edited).model.unwrap().value, "m");
        assert_eq!(edited, preamble.to_owned() + &part("model", "m") + &file("RIFF") + "--xyz--");
    }
}

#[test]
fn of_two_models_the_last_wins_and_neither_is_sure() {
    let body = part("model", "a") + &part("model", "b") + "--xyz--";
    let facts = facts(&body);
    assert_eq!(facts.model.unwrap().value, "b");
    assert!(facts.is_model_ambiguous);
}

#[test]
fn a_line_that_only_begins_like_the_boundary_is_content() {
    let hidden = "Content-Disposition: form-data; name=\"model\"\r\n\r\nhidden";
    for tail in ["abc", "-", "-x", " x", "\t-", "_"] {
        let content = format!("RIFF\r\n--xyz{tail}\r\n{hidden}");
        let body = file(&content) + &part("model", "m") + "--xyz--\r\n";
        let found = facts(&body);
        assert!(!found.is_model_ambiguous, "{tail}");
        let model = found.model.unwrap();
        assert_eq!((model.value.as_str(), raw(&body, model.span)), ("m", &b"m"[..]), "{tail}");
        let value = format!("a\r\n--xyz{tail}b");
        let body = part("model", &value) + "--xyz--";
        let model = facts(&body).model.unwrap();
        assert_eq!(
            (model.value.as_bytes(), raw(&body, model.span)),
            (value.as_bytes(), value.as_bytes())
        );
    }
}

#[test]
fn a_form_as_sdks_write_it_is_sure() {
    let body =
        file("RIFF\r\n--xy\n--x\r--z") + &part("model", "m") + &part("n", "1") + "--xyz--\r\n";
    assert!(!facts(&body).is_model_ambiguous);
}

#[test]
fn where_another_parser_would_find_another_part_nothing_is_sure() {
    let model = part("model", "m");
    let hidden = "Content-Disposition: form-data; name=\"model\"\r\n\r\nhidden";
    for body in [
        file(&format!("RIFF\n--xyz\r\n{hidden}")) + &model + "--xyz--",
        file(&format!("RIFF\r--xyz\r\n{hidden}")) + &model + "--xyz--",
        file(&format!("RIFF\r\n--xyz\r{hidden}")) + &model + "--xyz--",
        format!("{model}--xyz\n{hidden}\r\n--xyz--"),
        format!("{model}--xyz--\r\n--xyz\r\n{hidden}\r\n--xyz--"),
        format!("{model}--xyz--x\r\n{hidden}\r\n--xyz--"),
        format!("{}Model", part("Model", "n")) + &model + "--xyz--",
        part("model[]", "n") + &model + "--xyz--",
        model.replace("\r\n\r\n", "\r\n x: y\r\n\r\n") + "--xyz--",
        model.replace("\r\n\r\n", "\r\n \r\n\r\n") + "--xyz--",
        model.replace("\r\nContent", "\nContent") + "--xyz--",
        model.replace("\r\n\r\n", "\n\r\n") + "--xyz--",
        model.replace("\r\n\r\n", "\r\nContent-Disposition: form-data; name=x\r\n\r\n") + "--xyz--",
        model.replace("\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n") + "--xyz--",
    ] {
        assert!(facts(&body).is_model_ambiguous, "{body}");
    }
}

#[test]
fn contents_that_resemble_delimiters_are_contents() {
    for content in [
        "",
        "\r",
        "\r\n",
        "\r\r\n",
        "--",
        "-",
        "\r\n--",
        "\r\n--xy",
        "\r\n--xyZ",
        "--xy",
        "\n--xyz",
        "a\r\n\r\n--x\r\n",
        "\r\n-\r\n--xy\r",
    ] {
        let body = part("model", content) + "--xyz--";
        let model = facts(&body).model.unwrap();
        assert_eq!(model.value, content);
        assert_eq!(raw(&body, model.span), content.as_bytes());
    }
}

#[test]
fn a_part_without_content_may_omit_its_line_end() {
    let body = "--xyz\r\nContent-Disposition: form-data; name=model\r\n\r\n--xyz--";
    let model = facts(body).model.unwrap();
    assert_eq!((model.value.as_str(), model.span.len), ("", 0));
}

#[test]
fn field_names_are_read_in_every_notation() {
    for disposition in [
        "form-data; name=model",
        "form-data;name=\"model\"",
        "form-data ; NAME = \"model\" ; x",
        "form-data; filename=\"a;name=n\"; name=\"model\"",
        "form-data; name=\"mo\\del\"",
    ] {
        let body =
            format!("--xyz \r\nContent-Disposition: {disposition}\r\n\r\nm\r\n--xyz-- \r\nbye");
        assert_eq!(facts(&body).model.unwrap().value, "m", "{disposition}");
    }
    for disposition in ["form-data", "form-data; filename=model", "form-data; name=\"Model\"", ""] {
        let body = format!("--xyz\r\nContent-Disposition: {disposition}\r\n\r\nm\r\n--xyz--");
        assert_eq!(facts(&body).model, None, "{disposition}");
    }
}

#[test]
fn a_body_that_is_cut_or_has_another_boundary_is_malformed() {
    let body = part("model", "m") + "--xyz--";
    for len in 0..body.len() - 1 {
        assert!(scan(&body[..len]).is_err(), "{len}");
    }
    assert!(scan("--abc\r\n\r\n--abc--").is_err());
    assert!(scan("{\"model\":\"m\"}").is_err());
}

#[test]
fn long_values_and_headers_take_bounded_memory() {
    let long = "m".repeat(10_000);
    let body = format!(
        "--xyz\r\nx-{long}: {long}\r\nContent-Disposition: form-data; name=model\r\n\r\n{long}\r\n--xyz--"
    );
    let mut scanner = MultipartScanner::new(b"xyz");
    scanner.push(body.as_bytes());
    assert!(scanner.part.kept.capacity() <= 2 * HEADER_BYTES_MAX);
    let model = scanner.finish().unwrap().model.unwrap();
    assert!(model.value.len() < 300 && model.value.ends_with('…'));
    assert_eq!(model.span.len, 10_000);
}

#[test]
fn images_are_counted() {
    let body = part("image[]", "PNG") + &part("image[]", "PNG") + &part("mask", "PNG") + "--xyz--";
    assert_eq!(facts(&body).images, 2);
}

#[test]
fn a_boundary_is_read_from_the_content_type() {
    for (content_type, expected) in [
        ("multipart/form-data; boundary=xyz", Some("xyz")),
        ("Multipart/Form-Data;charset=utf-8;BOUNDARY=\"x y:z\"", Some("x y:z")),
        ("multipart/form-data; boundary = a ; x=y", Some("a")),
        ("multipart/form-data; x=\"boundary=no\"; boundary=yes", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=a; boundary*=b", None),
        ("multipart/form-data; boundary=\"a;b\"", None),
        ("multipart/form-data; boundary=\"a\\b\"", None),
        ("multipart/form-data; boundary=\"a \"", None),
        ("multipart/form-data; boundary=a, multipart/form-data", None),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary", None),
        ("application/json; boundary=x", None),
        ("multipart/form-data; boundary=\"a\rb\"", None),
        ("", None),
        ("\u{fffd}", None),
    ] {
        assert_eq!(
            boundary(content_type.as_bytes()),
            expected.map(|it| it.into()),
            "{content_type}"
        );
    }
    assert_eq!(
        boundary(format!("multipart/form-data; boundary={}", "x".repeat(201)).as_bytes()),
        None
    );
}

#[test]
fn any_chunking_of_random_forms_is_read_alike() {
    let pieces: [&[u8]; 12] = [
        b"\r\n",
        b"\r",
        b"\n",
        b"--",
        b"xyz",
        b"--xyz\r\n",
        b"\r\n--xyz--",
        b"m\xff",
        b"\r\n\r\n",
        b"Content-Disposition: form-data; name=model",
        b"; name=\"stream\"",
        b"\r\n--xyz\r\n",
    ];
    let mut random = Random::new(3);
    for _ in 0..20_000 {
        let body = random.join(&pieces, 14);
        let slices = random.cut(&body);
        assert_eq!(scan_in(&slices), scan_in(&[&body]), "{body:?}");
    }
}
