-- Where Redis stands with one journal, and what follows from it.
--
-- KEYS[1] epoch  KEYS[2] numbers  KEYS[3] history  KEYS[4] bases: behind which number a journal begins in this history
-- ARGV[1] journal  ARGV[2] the epoch its owner knows (0: none that is old enough to rely on)
-- ARGV[3] the highest number of the journal that was ever applied
--
-- An epoch names one history of this Redis. One that has none is new, or was wiped, and gets one here. Wiped: what was
-- applied stays gone, so the numbering goes on behind it. Rolled back: the number is lower than it was, and the owner
-- sends again what is missing. Both are changes of history, and the later of their instants is kept.
--
-- Returns {epoch, number, "wiped" | "went back" | "same"}.

local known, highest = tonumber(ARGV[2]), tonumber(ARGV[3])
local now_s = tonumber(redis.call('TIME')[1])
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = string.format('%.0f', math.max(now_s, known + 1))
  redis.call('SET', KEYS[1], epoch)
end
local stored = redis.call('HGET', KEYS[2], ARGV[1])
local found = 'same'
if not stored and highest > 0 and known > 0 and known ~= tonumber(epoch) then
  stored, found = ARGV[3], 'wiped'
  redis.call('HSET', KEYS[2], ARGV[1], stored)
  redis.call('HSET', KEYS[4], ARGV[1], stored)
elseif tonumber(stored or '0') < highest then
  found = 'went back'
end
if found ~= 'same' then
  local before = tonumber(redis.call('GET', KEYS[3]) or '0')
  redis.call('SET', KEYS[3], string.format('%.0f', math.max(now_s, before + 1)))
end
return {epoch, stored or '0', found}
