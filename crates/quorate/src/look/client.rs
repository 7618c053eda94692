//! One question to one node: `QUORATE STATUS` over RESP3.

use serde_json::{Map, Number, Value};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a node may take to accept a connection, and then between two parts of its answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer, and how deep it may be nested.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
const DEPTH_MAX: usize = 16;

/// The longest line of an answer.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What the node at `address` (`HOST:PORT`) answers, or why there is no answer.
pub(super) fn ask(address: &str) -> Result<Value, String> {
    let stream = connect(address)?;
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("it took the connection and did not answer in {} s", ANSWER_PATIENCE.as_secs())
        }
        ErrorKind::UnexpectedEof => "it closed the connection without an answer".into(),
        ErrorKind::InvalidData => format!("what answers there is no Quorate: {error}"),
        _ => error.to_string(),
    };
    stream
        .set_read_timeout(Some(ANSWER_PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER_PATIENCE)))
        .and_then(|()| (&stream).write_all(b"HELLO 3\r\nQUORATE STATUS\r\n"))
        .map_err(failed)?;
    let mut answers = BufReader::new(&stream).take(ANSWER_BYTES_MAX);
    let hello = read(&mut answers, 0).map_err(failed)?;
    if let Err(error) = hello {
        return Err(format!("it refuses: {error}"));
    }
    match read(&mut answers, 0).map_err(failed)? {
        Ok(status @ Value::Object(_)) => Ok(status),
        Ok(_) => Err("its answer makes no sense".into()),
        Err(error) => Err(format!(
            "it does not know QUORATE STATUS, so it is no Quorate or an older release: {error}"
        )),
    }
}

fn connect(address: &str) -> Result<TcpStream, String> {
    let resolved = address.to_socket_addrs().map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => "write its address as HOST:PORT".into(),
        _ => format!("its name cannot be resolved: {error}"),
    })?;
    let mut why = "its name has no address".to_owned();
    for address in resolved {
        match TcpStream::connect_timeout(&address, CONNECT_PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                why = match error.kind() {
                    ErrorKind::ConnectionRefused => "nothing listens there".into(),
                    ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                        format!("no connection in {} s", CONNECT_PATIENCE.as_secs())
                    }
                    _ => error.to_string(),
                };
            }
        }
    }
    Err(why)
}

fn nonsense(what: &str) -> std::io::Error {
    std::io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// Reads one reply; an error reply is the inner error.
fn read(input: &mut impl BufRead, depth: usize) -> std::io::Result<Result<Value, String>> {
    if depth > DEPTH_MAX {
        return Err(nonsense("a reply nested too deeply"));
    }
    let mut line = Vec::new();
    input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let line = line.strip_suffix(b"\r\n").ok_or_else(|| nonsense("a line without an end"))?;
    let line = std::str::from_utf8(line).map_err(|_| nonsense("a line that is no text"))?;
    let kind = line.chars().next().unwrap_or(' ');
    let text = line.get(1..).unwrap_or("");
    let number = || text.parse::<i64>().map_err(|_| nonsense("a number that is none"));
    let value = match kind {
        '+' => Value::from(text),
        '-' => return Ok(Err(text.into())),
        ':' => Value::from(number()?),
        '#' => Value::from(text == "t"),
        '_' => Value::Null,
        ',' => {
            let value: f64 = text.parse().map_err(|_| nonsense("a number that is none"))?;
            Number::from_f64(value).map_or(Value::Null, Value::Number)
        }
        '$' | '=' => {
            let Ok(len) = u64::try_from(number()?) else { return Ok(Ok(Value::Null)) };
            let mut bytes = Vec::new();
            input.by_ref().take(len + 2).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != len + 2 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(bytes.len() - 2);
            Value::from(String::from_utf8_lossy(&bytes))
        }
        '*' | '~' => {
            let mut items = Vec::new();
            for _ in 0..number()? {
                match read(input, depth + 1)? {
                    Ok(item) => items.push(item),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Value::Array(items)
        }
        '%' => {
            let mut map = Map::new();
            for _ in 0..number()? {
                let (Ok(name), value) = (read(input, depth + 1)?, read(input, depth + 1)?) else {
                    return Err(nonsense("a map without names"));
                };
                let name = name.as_str().ok_or_else(|| nonsense("a name that is no text"))?;
                match value {
                    Ok(value) => map.insert(name.to_owned(), value),
                    Err(error) => return Ok(Err(error)),
                };
            }
            Value::Object(map)
        }
        _ => return Err(nonsense("its bytes are no RESP")),
    };
    Ok(Ok(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decode(text: &str) -> std::io::Result<Result<Value, String>> {
        read(&mut text.as_bytes(), 0)
    }

    #[test]
    fn replies_become_json() {
        let text = "%3\r\n$1\r\na\r\n*3\r\n:1\r\n#t\r\n,0.5\r\n+b\r\n_\r\n$1\r\nc\r\n$2\r\nxy\r\n";
        let value = decode(text).unwrap().unwrap();
        assert_eq!(value, json!({"a": [1, true, 0.5], "b": null, "c": "xy"}));
        assert_eq!(decode("-ERR no\r\n").unwrap(), Err("ERR no".into()));
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        for text in ["", "HTTP/1.1 400 Bad\r\n", "$5\r\nab", "%1\r\n:1\r\n:2\r\n", ":x\r\n", "+a"] {
            assert!(decode(text).is_err(), "{text}");
        }
        assert!(decode(&"*1\r\n".repeat(50)).is_err());
        // What a length claims is not believed before it came.
        assert!(decode("$9000000000000000000\r\n").is_err());
        assert!(decode("*9000000000000000000\r\n").is_err());
    }
}
