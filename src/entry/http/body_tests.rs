use proptest::prelude::*;

use super::*;

/// What is read of a body: its bytes, its trailers, and what remains behind it.
async fn read(
    length: Length,
    reading: Reading,
    mut bytes: &[u8],
) -> Result<(String, Fields, usize), String> {
    let mut from = Buffered::new(&mut bytes);
    let mut body = BodyReader::new(length, reading);
    let (mut data, mut trailers) = (Vec::new(), Fields::default());
    loop {
        match body.next(&mut from).await.map_err(|error| error.to_string())? {
            Some(Piece::Data(piece)) => data.extend_from_slice(&piece),
            Some(Piece::Trailers(fields)) => trailers = fields,
            None => break,
        }
    }
    let rest = from.buffer.len() + bytes.len();
    Ok((String::from_utf8_lossy(&data).into_owned(), trailers, rest))
}

#[tokio::test]
async fn a_body_ends_where_its_length_says() {
    for (length, bytes, data, rest) in [
        (Length::Exactly(0), &b"next"[..], "", 4),
        (Length::Exactly(3), b"abcnext", "abc", 4),
        (Length::UntilClose, b"abc", "abc", 0),
        (Length::Chunked, b"3\r\nabc\r\n1;x=\"y\"\r\nd\r\n0\r\n\r\nnext", "abcd", 4),
        (Length::Chunked, b"00A \r\n0123456789\r\n0;e\r\n\r\n", "0123456789", 0),
    ] {
        for reading in [Reading::Strict, Reading::Lenient] {
            let found = read(length, reading, bytes).await.unwrap();
            assert_eq!(found, (data.to_owned(), Fields::default(), rest));
        }
    }
}

#[tokio::test]
async fn wrong_chunks_are_refused() {
    for bytes in [
        &b"g\r\n"[..],
        b"\r\n",
        b"-1\r\n",
        b"0x1\r\na\r\n0\r\n\r\n",
        b" 1\r\na\r\n0\r\n\r\n",
        b"1 1\r\n",
        b"fffffffffffffffff\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"1;\x00\r\na\r\n0\r\n\r\n",
        b"1\r\r\na\r\n0\r\n\r\n",
        b"3\r\nab",
        b"0\r\n",
        b"",
    ] {
        for reading in [Reading::Strict, Reading::Lenient] {
            let found = read(Length::Chunked, reading, bytes).await;
            assert!(found.is_err(), "{}: {found:?}", bytes.escape_ascii());
        }
    }
    for bytes in [&b"1\na\n0\n\n"[..], b"1\r\na\n0\r\n\r\n", b"1\r\na\r\n0\r\n\n"] {
        assert_eq!(read(Length::Chunked, Reading::Lenient, bytes).await.unwrap().0, "a");
        let strict = read(Length::Chunked, Reading::Strict, bytes).await;
        assert!(strict.unwrap_err().contains("CR and LF"));
    }
    let long = [b"1;".as_slice(), &[b'x'; 5000], b"\r\na\r\n0\r\n\r\n"].concat();
    assert!(read(Length::Chunked, Reading::Lenient, &long).await.is_err());
    let trailers = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(20_000), b"\r\n".to_vec()].concat();
    assert!(read(Length::Chunked, Reading::Lenient, &trailers).await.is_err());
}

#[tokio::test]
async fn trailers_pass_but_not_those_that_frame_or_address() {
    let bytes =
        b"0\r\nX-Sum: 1\r\nContent-Length: 5\r\nhost: evil\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (_, trailers, _) = read(Length::Chunked, Reading::Strict, bytes).await.unwrap();
    assert_eq!(trailers.names().collect::<Vec<_>>(), ["X-Sum"]);
    let folded = b"0\r\nX: 1\r\n 2\r\n\r\n";
    assert!(read(Length::Chunked, Reading::Strict, folded).await.is_err());
}

#[tokio::test]
async fn heads_are_bounded_and_an_early_end_is_told_from_none() {
    let mut empty = Buffered::new(&b"\r\n"[..]);
    assert!(empty.head().await.unwrap().is_none());
    let mut cut = Buffered::new(&b"GET / HT"[..]);
    assert!(matches!(cut.head().await, Err(NoHead::Cut)));
    let long = vec![b'x'; MAX_HTTP_HEAD + 10];
    assert!(matches!(Buffered::new(&long[..]).head().await, Err(NoHead::TooLong)));
    let mut two = Buffered::new(&b"GET / HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"[..]);
    assert!(two.head().await.unwrap().unwrap().starts_with(b"GET / "));
    assert!(two.starts().await.unwrap());
    assert!(two.head().await.unwrap().unwrap().starts_with(b"GET /2 "));
    assert!(!two.starts().await.unwrap());
}

proptest! {
    #[test]
    fn a_written_body_reads_back(pieces in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 1..50), 0..6), chunked in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut writer = BodyWriter::new(b"HEAD\r\n\r\n".to_vec(), chunked);
            let mut out = Vec::new();
            for piece in &pieces {
                writer.write(Piece::Data(piece.clone().into()), &mut out).await.unwrap();
            }
            writer.finish(&mut out).await.unwrap();
            let body = out.strip_prefix(b"HEAD\r\n\r\n").unwrap();
            let all = pieces.concat();
            let length =
                if chunked { Length::Chunked } else { Length::Exactly(all.len() as u64) };
            let (data, _, rest) = read(length, Reading::Strict, body).await.unwrap();
            assert_eq!((data, rest), (String::from_utf8_lossy(&all).into_owned(), 0));
        });
    }

    #[test]
    fn random_chunks_never_panic(bytes in prop::collection::vec(
        prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b';'), Just(b'0'), any::<u8>()], 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for reading in [Reading::Strict, Reading::Lenient] {
            let _ = runtime.block_on(read(Length::Chunked, reading, &bytes));
        }
    }
}
