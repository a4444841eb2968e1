-- Makes what is held for one journal what its owner says is open: after a rollback of Redis reservations are missing, or back.
--
-- KEYS[1] holds of the journal: exchange id -> [[budget, bucket, nanos], ...]
-- ARGV[1] the prefix of the budgets' keys, in the same slot as KEYS[1]
-- ARGV[2] {open: {id: "[[budget, bucket, nanos], ...]" or ""}, over: [id, ...], prune: [[budget, first bucket that is kept], ...]}
--
-- An open exchange without a text is one whose reservation nobody knows the answer of: left as it is. What is held for one
-- that is `over` is given back. What is held for any other is left, and told: it may have been reserved while this was on its
-- way, and only the owner, once it has this answer, knows.
--
-- Redis does not undo a script that fails half-way: everything is checked before the first write.
-- Returns {"held", held again, given back, [id of a stranger, ...]} | {"refused", reason}.

local PRUNE_ABOVE = 400 -- fields; a budget that is looked at twice a second should stay small

local said = cjson.decode(ARGV[2])

local function whole(number) return string.format('%.0f', number) end

local function is_hash(key)
  local found = redis.call('TYPE', key).ok
  return found == 'hash' or found == 'none'
end

-- What a text holds; or nil and the reason why it cannot be taken.
local function read(text)
  local is_read, holds = pcall(cjson.decode, text)
  if not is_read then return nil, 'what is held cannot be read: ' .. text end
  for _, hold in ipairs(holds) do
    if not is_hash(ARGV[1] .. hold[1]) then return nil, ARGV[1] .. hold[1] .. ' is no hash' end
  end
  return holds
end

-- A bucket that was pruned meanwhile counts nowhere any more.
local function add(holds, sign)
  for _, hold in ipairs(holds) do
    local key, field = ARGV[1] .. hold[1], 'held:' .. whole(hold[2])
    if hold[3] > 0 and (sign == '' or redis.call('HEXISTS', key, field) == 1) then
      redis.call('HINCRBY', key, field, sign .. whole(hold[3]))
    end
  end
end

if not is_hash(KEYS[1]) then return {'refused', KEYS[1] .. ' is no hash'} end
local held, over, strangers = {}, {}, {}
local stored = redis.call('HGETALL', KEYS[1])
for i = 1, #stored, 2 do held[stored[i]] = stored[i + 1] end
for _, id in ipairs(said.over) do
  if held[id] then
    local holds, wrong = read(held[id])
    if wrong then return {'refused', wrong} end
    over[id] = holds
  end
end
local missing = {}
for id, text in pairs(said.open) do
  if not held[id] and text ~= '' then
    local holds, wrong = read(text)
    if wrong then return {'refused', wrong} end
    missing[id] = holds
  end
end
for _, prune in ipairs(said.prune) do
  if not is_hash(ARGV[1] .. prune[1]) then return {'refused', ARGV[1] .. prune[1] .. ' is no hash'} end
end

-- From here on everything is written.
local again, back = 0, 0
for id, holds in pairs(over) do
  add(holds, '-')
  redis.call('HDEL', KEYS[1], id)
  back = back + 1
end
for id, holds in pairs(missing) do
  add(holds, '')
  redis.call('HSET', KEYS[1], id, said.open[id])
  again = again + 1
end
for id in pairs(held) do
  if not over[id] and said.open[id] == nil then strangers[#strangers + 1] = id end
end
for _, prune in ipairs(said.prune) do
  local key = ARGV[1] .. prune[1]
  if redis.call('HLEN', key) > PRUNE_ABOVE then
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local bucket = tonumber(string.match(field, ':(%d+)$'))
      if bucket and bucket < prune[2] then redis.call('HDEL', key, field) end
    end
  end
end
return {'held', again, back, strangers}
