return redis.call('foo')
--
return redis.pcall('set','a')
--
error('boom')
--
error({err='My Err'})
--
return foo
--
foo=1
--
local a=nil; return a.b
--
return cjson.decode('[1')
--
return {pcall(redis.call,'incr')}
--
if true then
--
redis.call('lpush','k1','a'); return redis.call('incr','k1')
--
return redis.error_reply('x y')
--
return redis.error_reply('My')
--
return {err='abc'}
--
error()
--
return unpack(1)
--
string.x=1
--
error('x',0)
--
error('x',2)
--
local function f() error('x',2) end
f()
--
return redis.call('multi')
--
return redis.call('eval','return 1',0)
--
return {redis.call('ping'),redis.call('echo','x')}
--
return redis.call('set','k1','v')
--
return redis.call('get','k1')
--
return redis.call('hgetall','k1')
--
redis.call('hset','k1','a',1,'b',2) redis.setresp(3) return redis.call('hgetall','k1')
--
redis.call('zadd','k1',1,'a',2.5,'b') redis.setresp(3) return redis.call('zrange','k1',0,-1,'withscores')
--
redis.call('zadd','k1',1,'a',2.5,'b') return redis.call('zrange','k1',0,-1,'withscores')
--
redis.call('sadd','k1','a') redis.setresp(3) return redis.call('smembers','k1')
--
redis.setresp(3) return redis.call('get','k1')
--
redis.setresp(3) return type(redis.call('get','k1'))
--
redis.call('set','k1',5) return redis.call('incrby','k1','x')
--
local ok,e=pcall(redis.call,'incrby','k1','x') return e
--
redis.call('set','k1','a') error('after')
--
return {1,2,{3,'x',false,true},nil,4}
--
return 3.99
--
return {ok='a\r\nb'}
--
return cjson.encode({1,2,3,{a=1,b={}}})
--
return cjson.encode({[1]=1,[2]=2,[4]=4})
--
return cjson.encode(ARGV)
--
return cmsgpack.pack({1,2,3,'x',true,1.5,-1,-200,70000,2^40})
--
return cmsgpack.pack({a=1})
--
return {cmsgpack.unpack(cmsgpack.pack(1,'a',{1,2}))}
--
return struct.pack('>I2i4bBhHlLfds c3 c0','1',2,3,4,5,6,7,8,1.5,2.5,'abc','xyz','tail')
--
return {struct.unpack('>I2i4s',struct.pack('>I2i4s',1,-2,'abc'))}
--
return {bit.tohex(-1),bit.band(0xff,0x0f),bit.lshift(1,31),bit.arshift(-8,1),bit.rol(0x12345678,8),bit.bswap(0x12345678),bit.tobit(2^32+5),bit.bnot(0)}
--
return tostring(1e15)
--
return {tostring(1/3),tostring(10),tostring(1e100),tostring(-0.5)}
--
return string.format('%5.2f|%d|%s|%q|%x|%g', 1.234, 42, 'x', 'a"b', 255, 1e20)
--
return #KEYS + #ARGV
--
KEYS[1]='z' return KEYS[1]
--
KEYS=nil
--
return {loadstring('return 1')(), select('#',loadstring('x x'))}
--
return select(2,loadstring('x x'))
--
return select(2,loadstring('x x','=foo'))
--
return {xpcall(function() error({err='e'}) end, function(e) return e.err end)}
--
return {coroutine.resume(coroutine.create(function() coroutine.yield(1) end))}
--
local co=coroutine.wrap(function() error('in co') end) co()
--
local t=setmetatable({},{__index=function(t,k) return k..'!' end}) return t.abc
--
return redis.sha1hex('abc')
--
return redis.sha1hex()
--
return redis.status_reply('x')
--
return redis.status_reply()
--
return redis.log(1)
--
return redis.log('x','y')
--
return redis.setresp(5)
--
return redis.setresp()
--
return redis.set_repl(8)
--
return redis.set_repl(1)
--
return redis.call()
--
return redis.call(nil)
--
return redis.call('set',{},1)
--
return redis.call('set','k1',12345678901)
--
redis.call('set','k1',1e15) return redis.call('get','k1')
--
return redis.call('object','foo')
--
return redis.call('object','encoding')
--
return redis.call('select',0)
--
return redis.call('dbsize')
--
redis.call('set','k1',1) redis.call('set','k2',2) return redis.call('dbsize')
--
return redis.call('publish','c','m')
--
return redis.call('subscribe','c')
--
return redis.call('type','k1')
--
return redis.call('type','k1').ok
--
return redis.call('expire','k1',10)
--
return {redis.call('set','k1','v','px',100000),tostring(redis.call('pttl','k1') > 50000)}
--
return {1,redis.error_reply('E x'),2}
--
return redis.pcall('lpush')
--
local r=redis.pcall('lpush') return r.err
--
return -0.0
--
return 1e19
--
return 'a'..1
--
return 2^53
--
return ('x'):rep(3)
--
return string.rep('x',-1)
--
return {string.byte('abc',1,-1)}
--
return table.concat({1,2,3},',')
--
return table.concat({1,{},3},',')
--
return table.getn({1,2})
--
local t={5,2,8} table.sort(t) return t
--
local t={5,2,8} table.sort(t,function(a,b) return a>b end) return t
--
table.sort()
--
return {math.floor(1.5),math.max(1,2),math.huge}
--
return tonumber('0x10')
--
return tonumber('z',36)
--
return {pcall(tonumber)}
--
#!lua flags=no-writes
return redis.call('set','k1',1)
--
#!lua flags=no-writes
return redis.call('get','k1')
--
#!lua flags=foo
return 1
--
#!lua name=foo
return 1
--
#!python
return 1
--
#!lua
error('line')
--
return redis.acl_check_cmd('get','k1')
--
return redis.acl_check_cmd('xyz')
--
return redis.acl_check_cmd()
--
local t = {} t[1]=1 t[3]=3 return t
--
return {a=1}
--
return {[0]=0,1,2}
--
return function() end
--
return coroutine.create(function() end)
--
assert(false)
--
assert(false,'msg')
--
assert(nil,{err='tab'})
--
return ...
--
return redis.call('script','load','x')
--
return redis.call('mget','k1','k2')
--
return redis.call('hset','k1','a')
--
local s=0 for i=1,1000 do s=s+i end return s
--
return next({})
--
return rawequal(KEYS,KEYS)
--
rawset(KEYS,1,'q') return KEYS
--
return redis.REPL_ALL
--
return {redis.LOG_DEBUG,redis.LOG_VERBOSE,redis.LOG_NOTICE,redis.LOG_WARNING,redis.REPL_NONE,redis.REPL_AOF,redis.REPL_SLAVE,redis.REPL_REPLICA}
--
return redis.call('exists','k1') + 1
--
local x = redis.call('get','k1') + 1 return x
--
return redis.call('eval_ro','return 1',0)
--
return redis.call('keys','*')
--
return redis.call('scan',0)
--
return {map={a=1}}
--
return {set={a=true}}
--
return {big_number='123'}
--
return {verbatim_string={format='txt',string='abc'}}
--
redis.setresp(3) return {map={a=1}}
--
redis.setresp(3) return true
--
redis.setresp(3) return false
--
return cjson.encode(0/0)
--
--
return cjson.decode('{"a":[1,2,{"b":null}]}').a[3].b == cjson.null
--
return cjson.decode('[1.5,2e3,-4]')
--
return cjson.decode(' [ ] x')
--
return cjson.decode('{"a":1,}')
--
return cjson.decode('tru')
--
return cjson.decode('"\\u00e9\\n"')
--
return cjson.encode({1,nil,3})
--
return redis.call('\xff\xfe')
--
return 'a\0b'
--
return redis.call('set','k\0','v\0')
--
return redis.call('sort','k1','by','nosort')
--
return redis.call('lpos','k1','a')
--
return redis.call('wait',0,0)
--
return redis.call('auth','x')
--
return redis.call('quit')
--
return redis.call('reset')
--
return redis.call('save')
--
return redis.call('readonly')
--
return redis.call('asking')
--
return redis.call('flushall')
--
return redis.call('pubsub','channels')
--
return redis.call('discard')
--
return redis.call('watch','k1')
--
return redis.call('unwatch')
--
math.randomseed(5) local r={} for i=1,10 do r[i]=math.random(1000) end return r
