use super::*;
use std::collections::BTreeMap;

/// A host with a few commands on strings.
#[derive(Default)]
struct Toy {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    log: Vec<String>,
}

impl Host for Toy {
    fn call(&mut self, args: &[&[u8]], proto: Proto, out: &mut Vec<u8>) -> Result<(), CallError> {
        let mut reply = Reply::new(out, proto);
        match args {
            [b"SET", key, value] => {
                self.values.insert(key.to_vec(), value.to_vec());
                reply.ok();
            }
            [b"GET", key] => match self.values.get(*key) {
                Some(value) => reply.bulk(value),
                None => reply.null(),
            },
            [b"RAW", raw] => reply.raw(raw),
            [b"STOP"] => return Err(CallError::Stop),
            _ => {
                return Err(CallError::Refused(
                    "ERR Unknown Redis command called from script".into(),
                ));
            }
        }
        Ok(())
    }

    fn knows(&self, args: &[&[u8]]) -> bool {
        matches!(args[0], b"SET" | b"GET")
    }

    fn log(&mut self, level: u8, text: &[u8]) {
        self.log.push(format!("{level} {}", String::from_utf8_lossy(text)));
    }
}

const LIMITS: Limits =
    Limits { instructions: 2_000_000, time_ms: 0, memory_bytes: 16 << 20, watch: None };

/// An engine and a host, for scripts one after another.
struct Bench {
    engine: Engine,
    host: Toy,
}

impl Bench {
    fn new() -> Self {
        Self { engine: Engine::new(), host: Toy::default() }
    }

    fn run(&mut self, proto: Proto, code: &str) -> Result<String, RunError> {
        let script = match self.engine.compile(code.as_bytes()) {
            Ok(script) => script,
            Err(text) => return Ok(format!("COMPILE {text}")),
        };
        let run = Run {
            name: "SHA",
            keys: &[b"k1", b"k2"],
            args: &[b"a1"],
            proto,
            seed: 7,
            limits: LIMITS,
        };
        let mut out = Vec::new();
        self.engine.run(&script, &run, &mut self.host, &mut out)?;
        Ok(String::from_utf8_lossy(&out).replace("\r\n", "|"))
    }

    #[track_caller]
    fn check(&mut self, code: &str, expected: &str) {
        let got = match self.run(Proto::Resp2, code) {
            Ok(reply) => reply,
            Err(RunError::Failed(text)) => format!("-{}", String::from_utf8_lossy(&text)),
            Err(RunError::Stopped(stop)) => format!("{stop:?}"),
        };
        assert_eq!(got, expected, "{code}");
    }
}

#[track_caller]
fn check(code: &str, expected: &str) {
    Bench::new().check(code, expected);
}

#[test]
fn values_become_replies() {
    check("return 3.99", ":3|");
    check("return -3.99", ":-3|");
    check("return 'x'", "$1|x|");
    check("return true", ":1|");
    check("return false", "$-1|");
    check("return nil", "$-1|");
    check("return {1,'a',{2},nil,5}", "*3|:1|$1|a|*1|:2|");
    check("return {ok='fine\\n'}", "+fine |");
    check("return {err='MY way'}", "-MY way|");
    check("return {KEYS[2], ARGV[1], #KEYS}", "*3|$2|k2|$2|a1|:2|");
    check("return {double=1.5}", "$3|1.5|");
    check("return {map={a=1}}", "*2|$1|a|:1|");
    check(
        "return print",
        "-ERR user_script:1: Script attempted to access nonexistent global \
           variable 'print' script: SHA, on @user_script:1.",
    );
    let mut bench = Bench::new();
    let code = "redis.setresp(3) return {true, {double=1.5}, {map={a=1}}, {set={b=true}}, \
                {big_number='9'}, {verbatim_string={format='txt', string='hi'}}}";
    assert_eq!(
        bench.run(Proto::Resp3, code).unwrap(),
        "*6|#t|,1.5|%1|$1|a|:1|~1|$1|b|(9|=6|txt:hi|"
    );
}

#[test]
fn replies_become_values() {
    check("return redis.call('RAW', '+OK\\r\\n').ok", "$2|OK|");
    check("return type(redis.call('GET', 'none'))", "$7|boolean|");
    check("return redis.call('RAW', '*2\\r\\n:5\\r\\n$-1\\r\\n')", "*2|:5|$-1|");
    check("return redis.pcall('RAW', '-WRONGTYPE no\\r\\n').err", "$12|WRONGTYPE no|");
    check(
        "redis.setresp(3) return redis.call('RAW', '%1\\r\\n+a\\r\\n,2.5\\r\\n').map == nil",
        ":0|",
    );
    check("redis.setresp(3) return tostring(redis.call('RAW', ',2.5\\r\\n').double)", "$3|2.5|");
    check("redis.setresp(3) return tostring(redis.call('RAW', '_\\r\\n'))", "$3|nil|");
    check("redis.setresp(3) return redis.call('RAW', '#t\\r\\n') == true", ":1|");
    check("redis.setresp(3) return redis.call('RAW', '~1\\r\\n$1\\r\\na\\r\\n').set.a", ":1|");
}

#[test]
fn arguments_are_strings_and_numbers() {
    check("redis.call('SET', 'a', 10) return redis.call('GET', 'a')", "$2|10|");
    check("redis.call('SET', 'a', 0.1) return redis.call('GET', 'a')", "$3|0.1|");
    check("redis.call('SET', 'a', 1e17) return redis.call('GET', 'a')", "$18|100000000000000000|");
    let refused = "-ERR Lua redis lib command arguments must be strings or integers script: SHA, \
                   on @user_script:1.";
    check("return redis.call('SET', {}, 1)", refused);
    check(
        "redis.call()",
        "-ERR Please specify at least one argument for this redis lib call \
          script: SHA, on @user_script:1.",
    );
}

#[test]
fn errors_say_where() {
    check("error('boom')", "-ERR user_script:1: boom script: SHA, on @user_script:1.");
    check("\nerror({err='My Err'})", "-My Err script: SHA, on @user_script:2.");
    check("error()", "-ERR nil script: SHA, on @user_script:1.");
    check(
        "return redis.call('FOO')",
        "-ERR Unknown Redis command called from script script: \
          SHA, on @user_script:1.",
    );
    check(
        "local a\nreturn a.b",
        "-ERR user_script:2: attempt to index local 'a' (a nil value) \
          script: SHA, on @user_script:2.",
    );
    check("if true then", "COMPILE user_script:1: 'end' expected near '<eof>'");
    check(
        "return ('x'):rep(nil)",
        "-ERR user_script:1: bad argument #1 to 'rep' (number \
          expected, got nil) script: SHA, on @user_script:1.",
    );
    check(
        "return string.find()",
        "-ERR user_script:1: bad argument #1 to 'find' (string \
          expected, got no value) script: SHA, on @user_script:1.",
    );
}

#[test]
fn errors_can_be_caught() {
    check(
        "return {pcall(redis.call, 'FOO')}",
        "*2|$-1|$44|ERR Unknown Redis command called \
          from script|",
    );
    check("return {pcall(error, {err='x y'})}", "*2|$-1|$3|x y|");
    check("return {pcall(error, {1})}", "*2|$-1|*1|:1|");
    check("return select('#', pcall(function() end))", ":1|");
    check(
        "return {xpcall(function() error('x', 0) end, function(e) return e .. '!' end)}",
        "*2|$-1|$2|x!|",
    );
    check(
        "return {xpcall(function() redis.call('FOO') end, function(e) return type(e) end)}",
        "*2|$-1|$5|table|",
    );
    check(
        "return {pcall(cjson.decode, '[')}",
        "*2|$-1|$45|Expected value but found T_END at \
          character 2|",
    );
    check(
        "local co = coroutine.create(function() redis.call('FOO') end)
           local ok, e = coroutine.resume(co) return {tostring(ok), e.err}",
        "*2|$5|false|$44|ERR Unknown Redis command called from script|",
    );
    check("return redis.pcall('FOO')", "-ERR Unknown Redis command called from script|");
}

#[test]
fn the_sandbox_stays_as_it_is() {
    let mut bench = Bench::new();
    let read_only = "-ERR user_script:1: Attempt to modify a readonly table script: SHA, on \
                     @user_script:1.";
    for code in ["x = 1", "string.x = 1", "_G.x = 1", "redis.call = nil", "KEYS = 1"] {
        bench.check(code, read_only);
    }
    bench.check(
        "getmetatable('').__index = 1",
        "-ERR user_script:1: attempt to index a boolean \
                value script: SHA, on @user_script:1.",
    );
    bench.check(
        "setmetatable(_G, {})",
        "-ERR user_script:1: cannot change a protected metatable script: SHA, on \
                @user_script:1.",
    );
    bench.check(
        "rawset(_G, 'x', 1)",
        "-ERR Attempt to modify a readonly table script: SHA, on \
                @user_script:1.",
    );
    bench.check("table.insert(redis, 5) return redis[1]", ":5|");
    bench.check("return redis[1]", "$-1|");
    bench.check("KEYS[1] = 'other' return KEYS[1]", "$5|other|");
    bench.check("return KEYS[1]", "$2|k1|");
    bench.check("local n = 0 for k, v in pairs(bit) do n = n + 1 end return n", ":12|");
    bench.check("local _, t = pairs(bit) return rawequal(t, bit)", ":1|");
    for name in ["io", "debug", "require", "dofile", "loadfile", "getfenv", "newproxy", "package"] {
        let code = format!("return {{pcall(function() return {name} end)}}");
        let text = format!(
            "user_script:1: Script attempted to access nonexistent global variable '{name}'"
        );
        bench.check(&code, &format!("*2|$-1|${}|{text}|", text.len()));
    }
    bench.check("return {loadstring(string.dump(function() end))}", "*0|");
    bench.check("return select(2, loadstring('\\27Lua'))", "$30|attempt to load a binary chunk|");
    bench.check("return loadstring('return 5')()", ":5|");
    bench.check(
        "local p = {'return', ' 6'} local i = 0
                 return load(function() i = i + 1 return p[i] end)()",
        ":6|",
    );
    bench.check(
        "return select(2, loadstring('x ='))",
        "$48|[string \"x =\"]:1: unexpected \
                symbol near '<eof>'|",
    );
}

#[test]
fn what_takes_too_long_is_ended_and_cannot_go_on() {
    let mut bench = Bench::new();
    for code in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function() end) end",
        "local f = function() while true do end end
         while true do coroutine.resume(coroutine.create(f)) end",
        "local f f = coroutine.wrap(function() while true do end end) f()",
        "return string.find(('a'):rep(200), ('a-'):rep(30) .. 'b')",
        "return (('x'):rep(1000)):gsub(('.-'):rep(9) .. 'y', '')",
        "local t = {} for i = 1, 100000 do t[i] = i % 7 end while true do table.sort(t) end",
        "local s = '[' while true do pcall(cjson.decode, s) end",
        "while true do redis.call('GET', 'x') end",
    ] {
        bench.check(code, "Instructions");
    }
    bench.check("redis.pcall('STOP') return 1", "Host");
    bench.check("pcall(redis.call, 'STOP') return 1", "Host");
    bench.check("return 1", ":1|");
}

#[test]
fn time_ends_a_script_where_somebody_measures_it() {
    let mut bench = Bench::new();
    let script = bench.engine.compile(b"while true do end").unwrap();
    thread_local!(static NOW: Cell<u64> = const { Cell::new(0) });
    let watch = || NOW.with(|now| now.replace(now.get() + 1));
    let limits = Limits { time_ms: 50, watch: Some(watch), instructions: u64::MAX, ..LIMITS };
    let run = Run { name: "SHA", keys: &[], args: &[], proto: Proto::Resp2, seed: 0, limits };
    let result = bench.engine.run(&script, &run, &mut bench.host, &mut Vec::new());
    assert_eq!(result, Err(RunError::Stopped(Stop::Time)));
}

#[test]
fn what_takes_too_much_memory_fails() {
    let mut bench = Bench::new();
    let failed = |result: Result<String, RunError>| match result {
        Err(RunError::Failed(text)) => {
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("not enough memory"), "{text}");
        }
        other => panic!("{other:?}"),
    };
    for code in [
        "local s = 'x' while true do s = s .. s end",
        "return ('x'):rep(1e9)",
        "local t = {} for i = 1, 1e7 do t[i] = {} end",
        "local s = ('x'):rep(1e6) local t = {} for i = 1, 100 do t[i] = s end return t",
        "local s = ('x'):rep(1e6) local t = {} for i = 1, 100 do t[i] = s end \
         return #cjson.encode(t)",
        "local s = ('x'):rep(1e6) local t = {} for i = 1, 100 do t[i] = s end \
         return #cmsgpack.pack(t)",
        "local s = ('x'):rep(1e4) return #s:gsub('x', s)",
        "return #struct.pack('c0', ('x'):rep(1e8))",
    ] {
        failed(bench.run(Proto::Resp2, code));
    }
    bench.check("local t = {1} for i = 1, 64 do t = {t, t} end return t", "Instructions");
    assert!(bench.engine.memory_bytes() < 8 << 20, "{:?}", bench.engine);
    bench.check("return 1", ":1|");
}

#[test]
fn a_cycle_is_no_endless_reply() {
    let reply = Bench::new().run(Proto::Resp2, "local t = {} t[1] = t return t").unwrap();
    assert!(reply.ends_with("-ERR reached lua stack limit|"), "{reply}");
}

#[test]
fn random_numbers_follow_from_the_seed() {
    check(
        "math.randomseed(42) return {math.random(100), math.random(100), math.random(5, 6)}",
        "*3|:75|:35|:5|",
    );
    let drawn = "return tostring(math.random()) .. tostring(math.random())";
    assert_eq!(Bench::new().run(Proto::Resp2, drawn), Bench::new().run(Proto::Resp2, drawn));
    check(
        "return {pcall(math.random, 0)}",
        "*2|$-1|$47|bad argument #1 to 'random' (interval is \
          empty)|",
    );
}

#[test]
fn os_clock_counts_and_reads_no_clock() {
    check("local t = os.clock() while os.clock() - t < 0.001 do end return os.clock() > t", ":1|");
}

#[test]
fn redis_functions() {
    check("return redis.sha1hex('')", "$40|da39a3ee5e6b4b0d3255bfef95601890afd80709|");
    check("return redis.error_reply('x')", "-ERR x|");
    check("return redis.error_reply('-MY x')", "-MY x|");
    check("return redis.error_reply(1)", "-ERR wrong number or type of arguments|");
    check("return redis.status_reply('fine')", "+fine|");
    check(
        "return {redis.REDIS_VERSION, redis.REDIS_VERSION_NUM, redis.LOG_WARNING}",
        "*3|$5|7.2.5|:459269|:3|",
    );
    check("return redis.replicate_commands()", ":1|");
    check("redis.set_repl(redis.REPL_NONE) return 1", ":1|");
    check("return redis.acl_check_cmd('GET', 'x')", ":1|");
    check(
        "return redis.acl_check_cmd('FOO')",
        "-ERR Invalid command passed to \
          redis.acl_check_cmd() script: SHA, on @user_script:1.",
    );
    check("redis.setresp(4)", "-ERR RESP version must be 2 or 3. script: SHA, on @user_script:1.");
    check("return redis.breakpoint", "$-1|");
    let mut bench = Bench::new();
    bench.check("redis.log(redis.LOG_NOTICE, 'a', 'b', 5)", "$-1|");
    assert_eq!(bench.host.log, ["2 a b 5"]);
}

#[test]
fn patterns_match_as_in_lua() {
    let cases = [
        ("('hello world'):find('o w')", "5 7"),
        ("('hello'):find('l', 1, true)", "3 3"),
        ("('hello'):find('')", "1 0"),
        ("('hello'):find('', 10)", "6 5"),
        ("('hello'):find('(l)(l)')", "3 4 l l"),
        ("('a.b'):find('.', 2, true)", "2 2"),
        ("('key = value'):match('^(%w+)%s*=%s*(%w+)$')", "key value"),
        ("('  x  '):match('^%s*(.-)%s*$')", "x"),
        ("('f(a(b)c)d'):match('%b()')", "(a(b)c)"),
        ("('THE (quick) fox'):find('%((%a+)%)')", "5 11 quick"),
        ("('hello'):match('()ll()')", "3 5"),
        ("('abc'):gsub('', '-')", "-a-b-c- 4"),
        ("('abc'):gsub('%w', '%0%0', 2)", "aabbc 2"),
        ("('hello world'):gsub('o', {o='0'})", "hell0 w0rld 2"),
        ("('abc'):gsub('.', function(c) if c == 'b' then return 'B' end end)", "aBc 3"),
        ("('abc abc'):gsub('(%w+) (%w+)', '%2 %1')", "abc abc 1"),
        ("('x=1,y=2'):gsub('(%w)=(%w)', '%2=%1')", "1=x,2=y 2"),
        ("('[]'):find('[]]')", "2 2"),
        ("('a-b'):find('[a%-]', 2)", "2 2"),
        ("('a]b'):gsub('[^]]', 'x')", "x]x 2"),
        ("('THE END'):gsub('%f[%a]%a+', 'w')", "w w 2"),
        ("('aaa'):match('a-b')", "nil"),
        ("('xyzxyz'):match('(x)yz%1')", "x"),
        ("('abc'):find('b', -1)", "nil"),
        ("('a\\0b'):find('%z')", "2 2"),
        ("('0x1F'):match('%x+', 3)", "1F"),
        ("('$5'):match('$5')", "$5"),
        ("('ab'):match('a$')", "nil"),
    ];
    let mut bench = Bench::new();
    for (code, expected) in cases {
        let code = format!(
            "local r = {{{code}}} if #r == 0 then r[1] = 'nil' end return table.concat(r, ' ')"
        );
        bench.check(&code, &format!("${}|{expected}|", expected.len()));
    }
    bench.check(
        "local t = {} for k, v in ('a=1, b=2'):gmatch('(%w)=(%w)') do t[#t+1] = k .. v end \
                 return table.concat(t, ' ')",
        "$5|a1 b2|",
    );
    for (code, text) in [
        ("('x'):find('%')", "malformed pattern (ends with '%')"),
        ("('x'):find('[a')", "malformed pattern (missing ']')"),
        ("('x'):find('(x')", "unfinished capture"),
        ("('x'):find('.)')", "invalid pattern capture"),
        ("('x'):find('%1')", "invalid capture index"),
        ("('x'):gsub('x', '%2')", "invalid capture index"),
        ("('x'):find('%b')", "unbalanced pattern"),
        ("('x'):find('%f')", "missing '[' after '%f' in pattern"),
        ("('x'):gsub('x', function() return {} end)", "invalid replacement value (a table)"),
        ("('x'):find(('()'):rep(33))", "too many captures"),
    ] {
        bench.check(
            &format!("return {code}"),
            &format!(
                "-ERR user_script:1: {text} script: SHA, \
                    on @user_script:1."
            ),
        );
    }
}

#[test]
fn json() {
    let cases = [
        ("cjson.encode({1,2,{a=true}})", "[1,2,{\"a\":true}]"),
        ("cjson.encode({})", "{}"),
        ("cjson.encode({[1]=1,[3]=3})", "[1,null,3]"),
        ("cjson.encode({[1.5]=1})", "{\"1.5\":1}"),
        ("cjson.encode(cjson.null)", "null"),
        ("cjson.encode(0.1)", "0.1"),
        ("cjson.encode(123456789012345)", "1.2345678901234e+14"),
        ("cjson.encode('/\"\\\\\\n\\1\\127é')", "\"\\/\\\"\\\\\\n\\u0001\\u007fé\""),
        ("tostring(cjson.decode('[1.5]')[1])", "1.5"),
        ("tostring(cjson.decode('{\"a\":null}').a == cjson.null)", "true"),
        ("cjson.decode('\"\\\\u00e9\\\\ud83d\\\\ude00\"')", "é😀"),
        ("tostring(cjson.decode('0x10'))", "16"),
        ("tostring(cjson.decode('-Inf'))", "-inf"),
        ("cjson.encode(cjson.decode('{\"a\":[],\"b\":{}}').a)", "{}"),
    ];
    let mut bench = Bench::new();
    for (code, expected) in cases {
        bench.check(&format!("return {code}"), &format!("${}|{expected}|", expected.len()));
    }
    for (code, text) in [
        ("cjson.decode('[1')", "Expected comma or array end but found T_END at character 3"),
        ("cjson.decode('{1:2}')", "Expected object key string but found T_NUMBER at character 2"),
        ("cjson.decode('{\"a\" 2}')", "Expected colon but found T_NUMBER at character 6"),
        ("cjson.decode('{\"a\":1')", "Expected comma or object end but found T_END at character 7"),
        ("cjson.decode('1 2')", "Expected the end but found T_NUMBER at character 3"),
        ("cjson.decode('x')", "Expected value but found invalid token at character 1"),
        ("cjson.decode('\"a')", "Expected value but found unexpected end of string at character 3"),
        (
            "cjson.decode('\"\\\\x\"')",
            "Expected value but found invalid escape code at character 2",
        ),
        (
            "cjson.decode(('['):rep(1002))",
            "Found too many nested data structures (1001) at character 1001",
        ),
        ("cjson.encode({[1]=1,[11]=2})", "Cannot serialise table: excessively sparse array"),
        ("cjson.encode(1/0)", "Cannot serialise number: must not be NaN or Inf"),
        (
            "cjson.encode({[true]=1})",
            "Cannot serialise boolean: table key must be a number or string",
        ),
    ] {
        bench.check(
            &format!("return {code}"),
            &format!(
                "-ERR user_script:1: {text} script: SHA, \
                    on @user_script:1."
            ),
        );
    }
    bench.check(
        "local t = {} for i = 1, 1001 do t = {t} end return cjson.encode(t)",
        "-ERR user_script:1: Cannot serialise, excessive nesting (1001) script: SHA, on \
         @user_script:1.",
    );
    bench.check(
        "cjson.encode_sparse_array(true) return cjson.encode({[1]=1,[11]=2})",
        "$14|{\"1\":1,\"11\":2}|",
    );
}

#[test]
fn libraries_register_functions() {
    let mut engine = Engine::new();
    let code = b"\nlocal n = 0
        redis.register_function('count', function(keys, args) n = n + 1 return {n, keys[1]} end)
        redis.register_function{function_name='two', callback=function() return 2 end,
            flags={'no-writes'}, description='two'}";
    let functions = engine.load_library(code, LIMITS).unwrap();
    assert_eq!(functions.len(), 2);
    assert_eq!((&functions[1].name[..], functions[1].flags.len()), (b"two".as_slice(), 1));
    let run = Run {
        name: "count",
        keys: &[b"k"],
        args: &[],
        proto: Proto::Resp2,
        seed: 0,
        limits: LIMITS,
    };
    for expected in ["*2\r\n:1\r\n$1\r\nk\r\n", "*2\r\n:2\r\n$1\r\nk\r\n"] {
        let mut out = Vec::new();
        engine.call(&functions[0], &run, &mut Toy::default(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    for (code, text) in [
        ("", "ERR No functions registered"),
        ("x =", "ERR Error compiling function: user_function:1: unexpected symbol near '<eof>'"),
        (
            "redis.call('GET', 'x')",
            "ERR Error registering functions: redis.call/pcall can only be \
          called inside a script invocation",
        ),
        ("while true do end", "ERR FUNCTION LOAD timeout"),
        (
            "redis.register_function('a b', function() end)",
            "ERR Error registering functions: \
          Function names can only contain letters, numbers, or underscores(_) and must be at \
          least one character long",
        ),
    ] {
        assert_eq!(engine.load_library(code.as_bytes(), LIMITS).unwrap_err(), text, "{code}");
    }
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    /// A Lua expression for a text of any bytes.
    fn literal(bytes: &[u8]) -> String {
        let escaped: String = bytes.iter().map(|byte| format!("\\{byte:03}")).collect();
        format!("'{escaped}'")
    }

    /// An expression for a value that JSON and MessagePack can hold.
    fn value() -> impl Strategy<Value = String> {
        let text = prop::collection::vec(any::<u8>(), 0..40);
        let leaf = prop_oneof![
            any::<i32>().prop_map(|n| n.to_string()),
            (-1_000_000i64..1_000_000).prop_map(|n| format!("{n} / 64")),
            (-(1i64 << 46)..1 << 46).prop_map(|n| n.to_string()),
            any::<bool>().prop_map(|b| b.to_string()),
            text.clone().prop_map(|bytes| literal(&bytes)),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20)
                    .prop_map(|items| format!("{{{}}}", items.join(","))),
                prop::collection::btree_map(text.clone(), inner, 0..6).prop_map(|pairs| {
                    let pairs: Vec<String> = pairs
                        .iter()
                        .map(|(key, value)| format!("[{}] = {value}", literal(key)))
                        .collect();
                    format!("{{{}}}", pairs.join(","))
                }),
            ]
        })
    }

    const SAME: &str = "
        local function same(a, b)
            if type(a) ~= 'table' or type(b) ~= 'table' then return a == b end
            for k, v in pairs(a) do if not same(v, b[k]) then return false end end
            for k in pairs(b) do if a[k] == nil then return false end end
            return true
        end ";

    /// An item of a format of `struct`, and an expression for what it can hold.
    fn item() -> impl Strategy<Value = (String, String)> {
        let integer = |option: &'static str, min: i64, max: i64| {
            (min..=max).prop_map(move |n| (option.to_owned(), n.to_string()))
        };
        prop_oneof![
            integer("b", -128, 127),
            integer("B", 0, 255),
            integer("h", -32_768, 32_767),
            integer("H", 0, 65_535),
            integer("i", i64::from(i32::MIN), i64::from(i32::MAX)),
            integer("I3", 0, 0xff_ffff),
            integer("l", -(1 << 53), 1 << 53),
            (any::<i32>()).prop_map(|n| ("d".to_owned(), format!("{n} / 8"))),
            prop::collection::vec(1u8.., 0..9).prop_map(|s| ("s".to_owned(), literal(&s))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn json_and_messagepack_give_back_what_they_got(value in value()) {
            for (write, read) in [
                ("cjson.encode", "cjson.decode"),
                ("cmsgpack.pack", "cmsgpack.unpack"),
            ] {
                // JSON has lists or objects only at its ends, and numbers of 14 digits.
                let code = format!(
                    "{SAME} cjson.encode_sparse_array(true) local v = {{{value}}} \
                     return same({read}({write}(v)), v)"
                );
                let reply = Bench::new().run(Proto::Resp2, &code);
                prop_assert_eq!(reply, Ok(":1|".into()), "{}", value);
            }
        }

        #[test]
        fn struct_gives_back_what_it_got(
            items in prop::collection::vec(item(), 1..8),
            order in prop::sample::select(vec!["<", ">", "!4", "!>", ""]),
        ) {
            let (options, values): (Vec<String>, Vec<String>) = items.into_iter().unzip();
            let (format, values) = (options.concat(), values.join(","));
            let code = format!(
                "{SAME} local f = '{order}{format}' local v = {{{values}}} \
                 local text = struct.pack(f, unpack(v)) local r = {{struct.unpack(f, text)}} \
                 return same(v, {{unpack(r, 1, #v)}}) and r[#v + 1] == #text + 1"
            );
            prop_assert_eq!(Bench::new().run(Proto::Resp2, &code), Ok(":1|".into()), "{}", code);
        }

        #[test]
        fn patterns_match_as_in_c(
            subject in "[ab.]{0,9}",
            pattern in r"[ab.%*+?^$()\[\]-]{0,8}",
        ) {
            let code = format!(
                "local t = {{pcall(string.find, {subject}, {pattern})}} \
                 local g = {{pcall(string.gsub, {subject}, {pattern}, '<%0>')}} \
                 for i = 1, #g do t[#t + 1] = g[i] end \
                 for i = 1, #t do t[i] = tostring(t[i]) end return table.concat(t, '|')",
                subject = literal(subject.as_bytes()),
                pattern = literal(pattern.as_bytes()),
            );
            let c = Lua::new_with(StdLib::STRING | StdLib::TABLE, LuaOptions::new()).unwrap();
            let expected: String = c.load(code.as_str()).eval().unwrap();
            let reply = Bench::new().run(Proto::Resp2, &code).unwrap();
            let ours = reply.split_once('|').map(|(_, text)| text.trim_end_matches('|').to_owned());
            let expected = expected.trim_end_matches('|').to_owned();
            prop_assert_eq!(ours, Some(expected), "{} in {}", pattern, subject);
        }
    }
}
