-- Applies one folded batch, or changes nothing. Arguments come as one JSON document in which every number is a string:
-- Lua's numbers are doubles, so totals are only ever added by HINCRBY.
--
-- KEYS[1] the journal's running sums  KEYS[2] series_seen  KEYS[3] sightings  KEYS[4] records  KEYS[5] record_index
-- KEYS[6] quarantine  KEYS[7] numbers  KEYS[8] epoch  KEYS[9] revisions  KEYS[10...] the hashes of the additions, in order
-- ARGV[1] {journal, epoch, replayed, first, last, additions: [{expires_s, fields: [name, value, ...]}],
--          sums: [name, value, ...], sightings: [field, first, last, ...], records: [id, payload, ...],
--          quarantined: [payload, ...], relied_on: [pair, number, ...], kept,
--          settled: [exchange id, ...], what was reserved for them is in the hash `holds`, the budgets' keys begin with `budgets`
--          (all in the slot of the other keys)}
--
-- Returns {"applied", last} | {"behind", stored}: the numbers do not follow on the stored one, or this is another
-- history than the sender knows (an epoch of 0 knows none) | {"unsettled", pair}: the registry of revisions says otherwise
-- | {"refused", reason}.
-- Redis does not undo a script that fails half-way: everything is checked before the first write.

local DIGITS = 18 -- two numbers of 18 digits cannot leave the range of HINCRBY
local CHUNK = 500 -- values handed to one command; Lua's stack holds a few thousand
local SIGHTINGS_KEPT = 2000

local batch = cjson.decode(ARGV[1])
local now = redis.call('TIME')
local now_s = tonumber(now[1])

local function is_integer(text)
  return type(text) == 'string' and #text <= DIGITS and string.match(text, '^%-?%d+$') ~= nil
end

local function check_type(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then
    return key .. ' holds a ' .. found .. ', not a ' .. wanted
  end
end

-- The current values of a hash's fields: an error text, or the fields that are not there yet.
local function check_fields(key, pairs_list)
  local fresh = {}
  for start = 1, #pairs_list, CHUNK * 2 do
    local names = {}
    for i = start, math.min(start + CHUNK * 2 - 1, #pairs_list), 2 do
      names[#names + 1] = pairs_list[i]
      if not is_integer(pairs_list[i + 1]) then
        return 'not an integer of at most 18 digits: ' .. pairs_list[i]
      end
    end
    local values = redis.call('HMGET', key, unpack(names))
    for i = 1, #names do
      if values[i] == false then
        fresh[#fresh + 1] = names[i]
      elseif not is_integer(values[i]) then
        return 'the total is not an integer of at most 18 digits: ' .. names[i]
      end
    end
  end
  return nil, fresh
end

-- A sighting is kept as "<first> <last>".
local function check_sightings()
  for i = 1, #batch.sightings, 3 do
    local known = redis.call('HGET', KEYS[3], batch.sightings[i])
    if known and not string.match(known, '^[%d.]+ [%d.]+$') then
      return 'the sighting cannot be read: ' .. batch.sightings[i]
    end
  end
end

for index, wanted in ipairs({'hash', 'hash', 'hash', 'stream', 'hash', 'stream', 'hash', 'string', 'hash'}) do
  local wrong = check_type(KEYS[index], wanted)
  if wrong then return {'refused', wrong} end
end
local stored = redis.call('HGET', KEYS[7], batch.journal) or '0'
if not is_integer(stored) then return {'refused', 'the number of the journal is none: ' .. stored} end
if batch.epoch ~= '0' and redis.call('GET', KEYS[8]) ~= batch.epoch then
  return {'behind', stored}
end
if tonumber(batch.first) ~= tonumber(stored) + 1 then
  return {'behind', stored}
end
for i = 1, #batch.relied_on, 2 do
  if redis.call('HGET', KEYS[9], batch.relied_on[i]) ~= batch.relied_on[i + 1] then
    return {'unsettled', batch.relied_on[i]}
  end
end
local function held_field(hold) return string.format('held:%.0f', hold[2]) end

local function is_hold(hold)
  return type(hold) == 'table' and type(hold[1]) == 'string' and type(hold[2]) == 'number'
    and type(hold[3]) == 'number' and hold[3] >= 0 and hold[3] % 1 == 0
end

-- Why a reservation cannot be given back; nil where it can.
local function check_hold(hold)
  if not is_hold(hold) then return 'a reservation cannot be read' end
  local wrong = check_type(batch.budgets .. hold[1], 'hash')
  if wrong then return wrong end
  local total = redis.call('HGET', batch.budgets .. hold[1], held_field(hold))
  if total and not is_integer(total) then return 'what is held in ' .. hold[1] .. ' is no integer' end
end

-- What is held for the exchanges that this batch settles: lists of {budget, bucket, nanos}, by id.
local function check_holds()
  local held = {}
  local wrong = #batch.settled > 0 and check_type(batch.holds, 'hash')
  if wrong then return wrong end
  for _, id in ipairs(batch.settled) do
    local text = redis.call('HGET', batch.holds, id)
    if text then
      local is_read, holds = pcall(cjson.decode, text)
      if not is_read or type(holds) ~= 'table' then return 'what is held for ' .. id .. ' cannot be read' end
      for _, hold in ipairs(holds) do
        wrong = check_hold(hold)
        if wrong then return wrong end
      end
      held[id] = holds
    end
  end
  return nil, held
end

local wrong_hold, held = check_holds()
if wrong_hold then return {'refused', wrong_hold} end
local fresh_series = {}
for index, addition in ipairs(batch.additions) do
  local key = KEYS[9 + index]
  local wrong = check_type(key, 'hash')
  if wrong then return {'refused', wrong} end
  local reason, fresh = check_fields(key, addition.fields)
  if reason then return {'refused', reason} end
  if index == 1 then fresh_series = fresh end
end
local wrong_sum = check_fields(KEYS[1], batch.sums)
if wrong_sum then return {'refused', wrong_sum} end
local wrong_sighting = check_sightings()
if wrong_sighting then return {'refused', wrong_sighting} end

-- From here on everything is written.
-- A series that comes back after a rollback was shown before: it is not new, and never held at 0 again.
local now_ms = batch.replayed and '0' or now[1] .. string.format('%03d', math.floor(tonumber(now[2]) / 1000))
for _, field in ipairs(fresh_series) do
  redis.call('HSET', KEYS[2], field, now_ms)
end
for index, addition in ipairs(batch.additions) do
  local key = KEYS[9 + index]
  local expires_s = tonumber(addition.expires_s)
  if expires_s == 0 or expires_s > now_s then
    for i = 1, #addition.fields, 2 do
      redis.call('HINCRBY', key, addition.fields[i], addition.fields[i + 1])
    end
    if expires_s > 0 then redis.call('EXPIREAT', key, addition.expires_s) end
  end
end
-- What the exchange took of a budget is among the additions; what was held for it goes in the same moment. Nothing can be
-- held (no price), and HINCRBY takes no -0; a bucket that was pruned meanwhile counts nowhere any more.
for id, holds in pairs(held) do
  for _, hold in ipairs(holds) do
    local key, field = batch.budgets .. hold[1], held_field(hold)
    if hold[3] > 0 and redis.call('HEXISTS', key, field) == 1 then
      redis.call('HINCRBY', key, field, string.format('-%.0f', hold[3]))
    end
  end
  redis.call('HDEL', batch.holds, id)
end
for i = 1, #batch.sums, 2 do
  redis.call('HINCRBY', KEYS[1], batch.sums[i], batch.sums[i + 1])
end

for i = 1, #batch.sightings, 3 do
  local field, first, last = batch.sightings[i], batch.sightings[i + 1], batch.sightings[i + 2]
  local known = redis.call('HGET', KEYS[3], field)
  if known then
    local known_first, known_last = string.match(known, '^(%S+) (%S+)$')
    if tonumber(known_first) < tonumber(first) then first = known_first end
    if tonumber(known_last) > tonumber(last) then last = known_last end
  end
  if known or redis.call('HLEN', KEYS[3]) < SIGHTINGS_KEPT then
    redis.call('HSET', KEYS[3], field, first .. ' ' .. last)
  end
end

-- The newest records, and the index by their ids, trimmed together.
local kept = tonumber(batch.kept)
if kept > 0 then
  for i = 1, #batch.records, 2 do
    local id = redis.call('XADD', KEYS[4], '*', 'id', batch.records[i], 'record', batch.records[i + 1])
    redis.call('HSET', KEYS[5], batch.records[i], id)
  end
  local excess = redis.call('XLEN', KEYS[4]) - kept
  while excess > 0 do
    local oldest = redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', math.min(excess, CHUNK))
    for _, entry in ipairs(oldest) do
      redis.call('HDEL', KEYS[5], entry[2][2])
      redis.call('XDEL', KEYS[4], entry[1])
    end
    excess = excess - #oldest
  end
end
for _, payload in ipairs(batch.quarantined) do
  redis.call('XADD', KEYS[6], 'MAXLEN', '~', '10000', '*', 'record', payload)
end

redis.call('HSET', KEYS[7], batch.journal, batch.last)
return {'applied', batch.last}
