-- Everything the console shows, as it stood at one instant. A script, because that is one answer on a cluster, too.
--
-- KEYS[1] epoch  KEYS[2] history  KEYS[3...] hashes
-- Returns {seconds, microseconds, epoch or "0", history or "0", {field, value, ...} per hash}.

local now = redis.call('TIME')
local answer = {now[1], now[2], redis.call('GET', KEYS[1]) or '0', redis.call('GET', KEYS[2]) or '0'}
for index = 3, #KEYS do
  answer[#answer + 1] = redis.call('HGETALL', KEYS[index])
end
return answer
