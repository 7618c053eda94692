-- Builds what scripts see as their globals. Called once with the natives, before the globals are
-- closed. What runs later uses locals only.
local native = ...
local pcall, xpcall, next, rawset, setmetatable = pcall, xpcall, next, rawset, setmetatable
local resume = coroutine.resume
local plain, seen, trace = native.plain, native.seen, native.trace

-- Errors of native functions pass through `plain` or `seen`, which fail themselves once the
-- script has to end.
local function settled(ok, ...)
    if ok then return ok, ... end
    return false, plain((...))
end

local function settled_as_it_is(ok, ...)
    if ok then return ok, ... end
    return false, seen((...))
end

local globals = {
    assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next,
    rawequal = rawequal, rawget = rawget, select = select, setmetatable = setmetatable,
    tonumber = tonumber, tostring = tostring, type = type, unpack = unpack,
    _VERSION = _VERSION,
    collectgarbage = native.collectgarbage, gcinfo = native.gcinfo,
    load = native.load, loadstring = native.loadstring,
    pairs = native.pairs, rawset = native.rawset,
    pcall = function(...) return settled(pcall(...)) end,
    xpcall = function(f, handler)
        return settled_as_it_is(xpcall(f, function(problem) return handler(seen(problem)) end))
    end,
}

local strings, maths, tables, routines = {}, {}, {}, {}
for name, value in next, string do strings[name] = value end
for name, value in next, native.string do strings[name] = value end
for name, value in next, math do maths[name] = value end
for name, value in next, native.math do maths[name] = value end
for name, value in next, table do tables[name] = value end
local sort, charge_sort = table.sort, native.charge_sort
tables.sort = function(...)
    charge_sort(...)
    return sort(...)
end
for name, value in next, coroutine do routines[name] = value end
routines.resume = function(...) return settled_as_it_is(resume(...)) end

-- A table that shows another one and cannot be changed.
local shown = {}
local function closed(real)
    local guard = setmetatable({}, {
        __index = real, __newindex = native.read_only, __metatable = false,
    })
    shown[guard] = real
    return guard
end

local text = getmetatable("")
text.__index, text.__metatable = strings, false

globals.string, globals.math, globals.coroutine = closed(strings), closed(maths), closed(routines)
globals.table = closed(tables)
for name, library in next, native.libraries do globals[name] = closed(library) end

local environment = closed(setmetatable(globals, { __index = native.missing }))
globals._G = environment

local function run(f, ...)
    local a, b = ...
    if a == nil then return xpcall(f, trace) end
    return xpcall(function() return f(a, b) end, trace)
end

-- Takes away what a script put into guards behind their backs (`table.insert` can).
local function sweep()
    for guard in next, shown do
        local key = next(guard)
        while key ~= nil do
            rawset(guard, key, nil)
            key = next(guard)
        end
    end
end

return environment, globals, shown, run, sweep
