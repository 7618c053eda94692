use proptest::prelude::*;

use super::*;

type Command = Vec<Vec<u8>>;

/// Feeds the pieces one after the other; the commands decoded and how it ended.
fn decode_with<'a>(
    limits: Limits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Command>, Result<usize, ProtocolError>) {
    let mut decoder = Decoder::new();
    decoder.set_limits(limits);
    let mut commands = Vec::new();
    for piece in pieces {
        let result = decoder.feed(piece, |args| {
            commands.push(args.iter().map(|arg| arg.to_vec()).collect());
            ControlFlow::Continue(())
        });
        if let Err(error) = result {
            assert_eq!(decoder.feed(b"PING\r\n", |_| unreachable!()), Err(error));
            return (commands, Err(error));
        }
    }
    (commands, Ok(decoder.pending_bytes()))
}

fn decode(input: &[u8]) -> (Vec<Command>, Result<usize, ProtocolError>) {
    let whole = decode_with(Limits::default(), [input]);
    let bytes = decode_with(Limits::default(), input.chunks(1));
    assert_eq!(whole, bytes, "cutting the input changes the result");
    whole
}

/// The commands of complete, correct input.
fn commands(input: &[u8]) -> Vec<Command> {
    let (commands, end) = decode(input);
    assert_eq!(end, Ok(0));
    commands
}

fn error(input: &[u8]) -> String {
    let (_, end) = decode(input);
    String::from_utf8_lossy(&end.expect_err("must be refused").reply_text()).into_owned()
}

fn command(args: &[&str]) -> Command {
    args.iter().map(|arg| arg.as_bytes().to_vec()).collect()
}

fn encode(command: &[Vec<u8>], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for arg in command {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

#[test]
fn multibulk_commands() {
    assert_eq!(
        commands(b"*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n"),
        [command(&["PING"]), command(&["SET", "k", ""])]
    );
}

#[test]
fn what_says_nothing_is_skipped() {
    assert_eq!(commands(b"\r\n\n  \r\n*0\r\n*-1\r\n*-77\r\nPING\n"), [command(&["PING"])]);
}

#[test]
fn the_bytes_after_cr_and_bulks_are_not_looked_at() {
    assert_eq!(
        commands(b"*1\r_$4\r_PING__*1\r\n$1\r\nX\r\n"),
        [command(&["PING"]), command(&["X"])]
    );
}

#[test]
fn inline_commands_and_quotes() {
    let cases: &[(&[u8], &[&[u8]])] = &[
        (b"SET k v\r\n", &[b"SET", b"k", b"v"]),
        (b"\t SET   k\tv  \n", &[b"SET", b"k", b"v"]),
        (b"a\x0bb \x0b\x0cc\n", &[b"a\x0bb", b"c"]),
        (b"a\rb\r\n", &[b"a", b"b"]),
        (b"SET k \"a b\"\r\n", &[b"SET", b"k", b"a b"]),
        (b"SET k \"\"\r\n", &[b"SET", b"k", b""]),
        (b"\"\\x00\\xfF\\n\\r\\t\\b\\a\\q\\\"\\\\\\xg1\"\n", &[b"\0\xff\n\r\t\x08\x07q\"\\xg1"]),
        (b"'a\\'b\\n \"c'\n", &[b"a'b\\n \"c"]),
        (b"foo\"bar\" b'a'\n", &[b"foobar", b"ba"]),
        (b"a\\nb\n", &[b"a\\nb"]),
        (b"\"a\"\x0bb\n", &[b"a", b"b"]),
        (b"$3\r\n", &[b"$3"]),
        (b" *1\r\n", &[b"*1"]),
    ];
    for &(line, args) in cases {
        let expected: Command = args.iter().map(|arg| arg.to_vec()).collect();
        assert_eq!(commands(line), [expected], "{}", line.escape_ascii());
    }
}

/// Inputs and the replies redis-server 7.0.15 gave to them.
#[test]
fn errors_in_the_words_of_redis() {
    let long = vec![b'1'; LINE_BYTES_MAX + 1];
    let with = |head: &[u8], tail: &[u8]| [head, tail].concat();
    let cases: &[(Vec<u8>, &str)] = &[
        (b"*a\r\n".to_vec(), "invalid multibulk length"),
        (b"*\r\n".to_vec(), "invalid multibulk length"),
        (b"*+1\r\n".to_vec(), "invalid multibulk length"),
        (b"*01\r\n".to_vec(), "invalid multibulk length"),
        (b"*-0\r\n".to_vec(), "invalid multibulk length"),
        (b"* 1\r\n".to_vec(), "invalid multibulk length"),
        (b"*2147483648\r\n".to_vec(), "invalid multibulk length"),
        (b"*99999999999999999999\r\n".to_vec(), "invalid multibulk length"),
        (b"*1\r\n$-1\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\n$\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\n$1x\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\n$00\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\n$536870913\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\n$99999999999999999999\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\nxoxo\r\n".to_vec(), "expected '$', got 'x'"),
        (b"*1\r\n:1\r\n".to_vec(), "expected '$', got ':'"),
        (b"SET k \"a\r\n".to_vec(), "unbalanced quotes in request"),
        (b"SET k 'a\r\n".to_vec(), "unbalanced quotes in request"),
        (b"SET k \"a\"b\r\n".to_vec(), "unbalanced quotes in request"),
        (b"SET k 'a'b\r\n".to_vec(), "unbalanced quotes in request"),
        (b"SET k \"a\\\r\n".to_vec(), "unbalanced quotes in request"),
        (with(b"", &long), "too big inline request"),
        (with(b"*", &long), "too big mbulk count string"),
        (with(b"*1\r\n$", &long), "too big bulk count string"),
        (with(b"a\0\n", &long), "too big inline request"),
        (with(b"*1\0\r\n", &long), "too big mbulk count string"),
        (with(b"*1\r\n$1\0\r\n", &long), "too big bulk count string"),
    ];
    for (input, words) in cases {
        let shown = input[..input.len().min(40)].escape_ascii();
        assert_eq!(error(input), format!("ERR Protocol error: {words}"), "{shown}");
    }
    assert_eq!(ProtocolError::ExpectedBulk(b'x').to_string(), "expected '$', got 'x'");
    assert_eq!(ProtocolError::ExpectedBulk(0xff).reply_text().last_chunk(), Some(b"'\xff'"));
}

#[test]
fn commands_before_an_error_are_handed_over() {
    let (commands, end) = decode(b"PING\r\n*1\r\n$1\r\nX\r\n*1\r\n!\r\nPING\r\n");
    assert_eq!(commands, [command(&["PING"]), command(&["X"])]);
    assert_eq!(end, Err(ProtocolError::ExpectedBulk(b'!')));
}

#[test]
fn the_longest_line_is_accepted() {
    let mut line = vec![b'a'; LINE_BYTES_MAX - 1];
    line.extend_from_slice(b"\r\n");
    assert_eq!(commands(&line)[0][0].len(), LINE_BYTES_MAX - 1);
}

#[test]
fn limits_of_the_client() {
    let stranger = Limits { authenticated: false, ..Limits::default() };
    let end = |limits, input: &[u8]| decode_with(limits, [input]).1;
    assert_eq!(end(stranger, b"*10\r\n"), Ok(5));
    assert_eq!(end(stranger, b"*11\r\n"), Err(ProtocolError::UnauthenticatedMultibulkLength));
    assert_eq!(end(stranger, b"*1\r\n$16384\r\n"), Ok(12));
    let mut complete = b"*1\r\n$16385\r\n".to_vec();
    complete.resize(20_000, b'x');
    assert_eq!(end(stranger, &complete), Err(ProtocolError::UnauthenticatedBulkLength));

    let narrow = Limits { bulk_bytes_max: 3, args_max: 2, authenticated: true };
    assert_eq!(end(narrow, b"*2\r\n$3\r\nabc\r\n$0\r\n\r\n"), Ok(0));
    assert_eq!(end(narrow, b"*3\r\n"), Err(ProtocolError::InvalidMultibulkLength));
    assert_eq!(end(narrow, b"*1\r\n$4\r\nabcd\r\n"), Err(ProtocolError::InvalidBulkLength));

    assert_eq!(end(Limits::default(), b"*1048576\r\n"), Ok(10));
    assert_eq!(end(Limits::default(), b"*1048577\r\n"), Err(ProtocolError::InvalidMultibulkLength));
}

#[test]
fn limits_may_change_between_two_commands() {
    let mut decoder = Decoder::new();
    decoder.set_limits(Limits { authenticated: false, ..Limits::default() });
    let mut input = b"AUTH x\r\n".to_vec();
    let wide = vec![b"k".to_vec(); 20];
    encode(&wide, &mut input);
    decoder
        .feed(&input, |args| {
            assert_eq!(args, [b"AUTH".as_slice(), b"x"]);
            ControlFlow::Break(())
        })
        .unwrap();
    decoder.set_limits(Limits::default());
    let mut got = 0;
    decoder
        .feed(b"", |args| {
            got += args.len();
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((got, decoder.pending_bytes()), (20, 0));
}

#[test]
fn announcing_costs_nothing() {
    let mut decoder = Decoder::new();
    decoder.feed(b"*1048576\r\n$536870912\r\nx", |_| unreachable!()).unwrap();
    assert_eq!(decoder.pending_bytes(), 23);
    assert!(decoder.memory_bytes() < 1024, "{}", decoder.memory_bytes());
}

#[test]
fn a_large_value_is_held_exactly_and_then_given_back() {
    const LEN: usize = 9_000_000;
    let mut decoder = Decoder::new();
    let mut input = Vec::new();
    encode(&[b"SET".to_vec(), b"k".to_vec(), vec![7; LEN]], &mut input);
    let mut got = 0;
    for piece in input.chunks(64 * 1024) {
        decoder
            .feed(piece, |args| {
                got = args[2].len();
                ControlFlow::Continue(())
            })
            .unwrap();
        let room = (2 * decoder.pending_bytes()).min(input.len()) + 64 * 1024 + 1024;
        assert!(decoder.memory_bytes() <= room, "{} > {room}", decoder.memory_bytes());
    }
    assert_eq!(got, LEN);
    assert_eq!(decoder.pending_bytes(), 0);
    assert!(decoder.memory_bytes() <= 2 * IDLE_BYTES_MAX);
}

#[test]
fn many_arguments_are_given_back() {
    let mut decoder = Decoder::new();
    let wide = vec![b"arg".to_vec(); 100_000];
    let mut input = Vec::new();
    encode(&wide, &mut input);
    let mut got = 0;
    for piece in input.chunks(1000) {
        decoder
            .feed(piece, |args| {
                got = args.len();
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    assert_eq!(got, wide.len());
    assert!(decoder.memory_bytes() <= 2 * IDLE_BYTES_MAX);
}

#[test]
fn complete_commands_lie_in_the_input() {
    let input = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n";
    let within = input.as_ptr_range();
    let mut seen = 0;
    let mut decoder = Decoder::new();
    decoder
        .feed(input, |args| {
            assert!(args.iter().all(|arg| within.contains(&arg.as_ptr())));
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((seen, decoder.pending_bytes()), (2, 4));
}

fn any_command() -> impl Strategy<Value = Command> {
    let arg = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 0..6000),
    ];
    prop_oneof![
        8 => prop::collection::vec(arg.clone(), 1..6),
        1 => prop::collection::vec(arg, 1..60),
    ]
}

/// A command as an inline line, every byte escaped.
fn encode_inline(command: &[Vec<u8>], out: &mut Vec<u8>) {
    for arg in command {
        let digits: String = arg.iter().map(|byte| format!("\\x{byte:02X}")).collect();
        out.extend_from_slice(format!("\"{digits}\" ").as_bytes());
    }
    out.push(b'\n');
}

/// Input near enough to the protocol to get past its first byte.
fn any_garbage() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(b"*".to_vec()),
        Just(b"$".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\0".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"'".to_vec()),
        Just(b"\\x4".to_vec()),
        Just(b"*1\r\n".to_vec()),
        Just(b"*2\r\n$1\r\na\r\n".to_vec()),
        Just(b"$3\r\nabc\r\n".to_vec()),
        (-3i64..20).prop_map(|n| n.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

/// Cuts `input` into pieces of the lengths given, over and over.
fn cut<'a>(mut input: &'a [u8], lens: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for &len in lens.iter().cycle() {
        if input.is_empty() {
            break;
        }
        let (piece, rest) = input.split_at(len.min(input.len()));
        pieces.push(piece);
        input = rest;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_survive_any_cut(
        sent in prop::collection::vec((any_command(), prop::bool::weighted(0.2)), 0..12),
        lens in prop::collection::vec(1usize..300, 1..8),
        breaks in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        let mut input = Vec::new();
        for (command, inline) in &sent {
            if *inline && command.iter().map(Vec::len).sum::<usize>() < 10_000 {
                encode_inline(command, &mut input);
            } else {
                encode(command, &mut input);
            }
        }
        let sent: Vec<Command> = sent.into_iter().map(|(command, _)| command).collect();
        let mut got: Vec<Command> = Vec::new();
        let mut decoder = Decoder::new();
        let mut breaks = breaks.iter().cycle();
        let mut on_command = |args: &[&[u8]]| {
            got.push(args.iter().map(|arg| arg.to_vec()).collect());
            match breaks.next() {
                Some(true) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        for piece in cut(&input, &lens) {
            decoder.feed(piece, &mut on_command).unwrap();
        }
        for _ in 0..sent.len() {
            decoder.feed(b"", &mut on_command).unwrap();
        }
        prop_assert_eq!(decoder.pending_bytes(), 0);
        prop_assert_eq!(got, sent);
        prop_assert!(decoder.memory_bytes() <= 3 * IDLE_BYTES_MAX);
    }

    #[test]
    fn garbage_gives_the_same_however_cut(
        input in any_garbage(),
        lens in prop::collection::vec(1usize..30, 1..8),
    ) {
        let whole = decode_with(Limits::default(), [input.as_slice()]);
        let pieces = decode_with(Limits::default(), cut(&input, &lens));
        prop_assert_eq!(whole, pieces);
    }

    /// The straight way accepts nothing that the full parser reads differently.
    #[test]
    fn the_straight_way_agrees(input in any_garbage(), authenticated: bool) {
        let limits = Limits { authenticated, ..Limits::default() };
        let mut args = Args::new();
        if let Some(used) = parse_plain(&input, limits.plain(), &mut args) {
            let mut partial = Partial::default();
            prop_assert_eq!(partial.parse(&input, &limits), Ok(Some(used)));
            let flow = partial.hand_over(&input[..used], &mut |full: &[&[u8]]| {
                if full == args.as_slice() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            prop_assert!(flow.is_continue());
        }
    }
}
