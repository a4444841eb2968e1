-- Reserves for one exchange in every budget that applies to it, or in none.
--
-- KEYS[1] holds of the journal: exchange id -> [[budget, bucket, nanos], ...]  KEYS[2...] the budgets' hashes, in order
-- ARGV[1] {id, wanted: [{name, limit, nanos, edges: [start, ...] | width, count}]}; numbers that are money are strings
--
-- A budget's hash holds, per bucket (its start in seconds), `spent:<bucket>` and `held:<bucket>`. The bucket is told by this
-- clock, so that all askers agree: of a calendar period the last of `edges` that has come, else a multiple of `width`; the last
-- `count` + 1 buckets of a rolling budget count together. What is compared stays below 2^53, where doubles are exact: a limit
-- is at most a million units, and what is added was admitted under it.
--
-- Asked twice for the same exchange, the answer is the first one. Returns {"held", [[budget, bucket, nanos], ...]} |
-- {"used up", number of the budget in `wanted`, spent, held, instant in seconds at which some of it is free again}.

local asked = cjson.decode(ARGV[1])
local known = redis.call('HGET', KEYS[1], asked.id)
if known then return {'held', known} end
local now_s = tonumber(redis.call('TIME')[1])

local function whole(number) return string.format('%.0f', number) end

-- The buckets that count now, the newest last, and when the newest ends.
local function buckets_of(wanted)
  if wanted.edges then
    local at = 1
    for i = 1, #wanted.edges - 1 do
      if wanted.edges[i] <= now_s then at = i end
    end
    return {wanted.edges[at]}, wanted.edges[at + 1]
  end
  local newest = now_s - now_s % wanted.width
  local found = {}
  for i = wanted.count, 0, -1 do found[#found + 1] = newest - i * wanted.width end
  return found, newest + wanted.width
end

local function sums_of(key, buckets)
  local fields = {}
  for _, bucket in ipairs(buckets) do
    fields[#fields + 1] = 'spent:' .. whole(bucket)
    fields[#fields + 1] = 'held:' .. whole(bucket)
  end
  local values = redis.call('HMGET', key, unpack(fields))
  local spent, held, oldest = 0, 0, nil
  for i, bucket in ipairs(buckets) do
    local one, other = tonumber(values[2 * i - 1] or '0'), tonumber(values[2 * i] or '0')
    spent, held = spent + one, held + other
    if not oldest and one + other > 0 then oldest = bucket end
  end
  return spent, held, oldest
end

local holds = {}
for number, wanted in ipairs(asked.wanted) do
  local buckets, ends_s = buckets_of(wanted)
  local spent, held, oldest = sums_of(KEYS[1 + number], buckets)
  if spent + held + tonumber(wanted.nanos) > tonumber(wanted.limit) then
    local free_s = ends_s
    if wanted.width and oldest then free_s = oldest + (wanted.count + 1) * wanted.width end
    return {'used up', whole(number), whole(spent), whole(held), whole(free_s)}
  end
  holds[number] = {wanted.name, buckets[#buckets], tonumber(wanted.nanos)}
end
for number, hold in ipairs(holds) do
  redis.call('HINCRBY', KEYS[1 + number], 'held:' .. whole(hold[2]), asked.wanted[number].nanos)
end
local parts = {}
for number, hold in ipairs(holds) do
  parts[number] = '["' .. hold[1] .. '",' .. whole(hold[2]) .. ',' .. whole(hold[3]) .. ']'
end
local text = '[' .. table.concat(parts, ',') .. ']'
redis.call('HSET', KEYS[1], asked.id, text)
return {'held', text}
