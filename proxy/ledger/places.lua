-- Gives names a place among the values of a label, while there are places: beyond the cap a name is one of the others.
--
-- KEYS[1] the set of the label's names
-- ARGV[1] {cap, had: names that have been given a place, which they keep; asked: names; may_take: for each whether it may take one}
--
-- A place is never taken back, so that all workers agree for good: what one was given, every other is told as well.
-- Returns for each asked name 1 or 0.

local asked = cjson.decode(ARGV[1])
local cap = tonumber(asked.cap)

for _, name in ipairs(asked.had) do redis.call('SADD', KEYS[1], name) end

local given = {}
for index, name in ipairs(asked.asked) do
  local has = redis.call('SISMEMBER', KEYS[1], name) == 1
  if not has and asked.may_take[index] and redis.call('SCARD', KEYS[1]) < cap then
    redis.call('SADD', KEYS[1], name)
    has = true
  end
  given[index] = has and 1 or 0
end
return given
