-- Tells Redis what somebody knows of client keys, and answers with all that is known, at one instant.
--
-- KEYS[1] client_keys: id -> key as JSON   KEYS[2] client_keys_revoked: id -> instant   KEYS[3] client_keys_state
-- ARGV[1] the state the asker has seen (empty: none)   ARGV[2] a state nobody has seen, for the case that something changes
-- ARGV[3] how many keys follow, then id and key of each, then id and instant of each revocation
--
-- A state is a random word that is new with every change: a Redis that was rolled back and changed again cannot be taken
-- for the one that was seen. Nothing is ever overwritten or deleted here, so telling it twice changes nothing.
-- Returns {state, "same"} | {state, "all", {id, key, ...}, {id, instant, ...}}; a state is empty where there is none.

for index = 1, 2 do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= 'none' and found ~= 'hash' then
    return redis.error_reply(KEYS[index] .. ' holds a ' .. found .. ', not a hash')
  end
end

local changed = 0
local behind_keys = 3 + 2 * tonumber(ARGV[3])
for index = 4, #ARGV, 2 do
  local key = index <= behind_keys and KEYS[1] or KEYS[2]
  changed = changed + redis.call('HSETNX', key, ARGV[index], ARGV[index + 1])
end
if changed > 0 then
  redis.call('SET', KEYS[3], ARGV[2])
end
local state = redis.call('GET', KEYS[3]) or ''
if state ~= '' and state == ARGV[1] then
  return {state, 'same'}
end
return {state, 'all', redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
