-- Gives names a place among the values of a label, or combinations of them their own series, while there is room.
--
-- KEYS[1] the set of those that have a place  KEYS[2...] the other sets that share the room with it
-- ARGV[1] {had: for each set those that have been given a place, which they keep; weights: for each set what one of it takes;
--          asked: who asks; most: for each, how much may be taken with it}
--
-- A place is never taken back, so that all workers agree for good: what one was given, every other is told as well.
-- Returns for each that asks 1 or 0.

local asked = cjson.decode(ARGV[1])

local taken = 0
for index, key in ipairs(KEYS) do
  for _, name in ipairs(asked.had[index]) do redis.call('SADD', key, name) end
  taken = taken + redis.call('SCARD', key) * asked.weights[index]
end

local given = {}
for index, name in ipairs(asked.asked) do
  local has = redis.call('SISMEMBER', KEYS[1], name) == 1
  if not has and taken + asked.weights[1] <= asked.most[index] then
    redis.call('SADD', KEYS[1], name)
    taken = taken + asked.weights[1]
    has = true
  end
  given[index] = has and 1 or 0
end
return given
