-- Makes what is held for one journal what its owner says is open: after a rollback of Redis reservations are missing, or back.
--
-- KEYS[1] holds of the journal: exchange id -> [[budget, bucket, nanos], ...]
-- ARGV[1] the prefix of the budgets' keys, in the same slot as KEYS[1]
-- ARGV[2] {open: {id: "[[budget, bucket, nanos], ...]" or ""}, prune: [[budget, first bucket that is kept], ...]}
--
-- An open exchange without a text is one whose reservation nobody knows the answer of: left as it is. An id that is held
-- and not open belongs to an exchange whose record is applied, or that never began: it is given back.
--
-- Returns {held again, given back}.

local PRUNE_ABOVE = 400 -- fields; a budget that is looked at twice a second should stay small

local said = cjson.decode(ARGV[2])

local function whole(number) return string.format('%.0f', number) end

local function add(text, sign)
  for _, hold in ipairs(cjson.decode(text)) do
    if hold[3] > 0 then redis.call('HINCRBY', ARGV[1] .. hold[1], 'held:' .. whole(hold[2]), sign .. whole(hold[3])) end -- '-0' is no integer to Redis
  end
end

local again, back = 0, 0
local held = redis.call('HGETALL', KEYS[1])
local known = {}
for i = 1, #held, 2 do
  known[held[i]] = true
  if said.open[held[i]] == nil then
    add(held[i + 1], '-')
    redis.call('HDEL', KEYS[1], held[i])
    back = back + 1
  end
end
for id, text in pairs(said.open) do
  if not known[id] and text ~= '' then
    add(text, '')
    redis.call('HSET', KEYS[1], id, text)
    again = again + 1
  end
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
return {again, back}
