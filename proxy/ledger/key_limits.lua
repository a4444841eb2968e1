-- Lets one request in under the limits of its key, or says why not and how long to wait. By Redis' own clock, in microseconds.
--
-- KEYS[1] key_minute:ID  the requests of the last minute by their instants   KEYS[2] key_open:ID  leases by when they lapse
-- ARGV[1] requests per minute (0: no limit)   ARGV[2] concurrent exchanges (0: no limit)
-- ARGV[3] the lease   ARGV[4] how long a lease lasts, in microseconds
--
-- What is refused is not counted. An instant in the future was written before the clock was set back, and is dropped.
-- Returns {"in", 0} | {"rate", microseconds until the next may come} | {"open", 0}.

local MINUTE = 60 * 1000000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local rate, open, lasts = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])

local function text(number)
  return string.format('%.0f', number)
end

if open > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now))
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. text(now + lasts), '+inf')
  if redis.call('ZCARD', KEYS[2]) >= open then
    return {'open', '0'}
  end
end
if rate > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now - MINUTE))
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. text(now), '+inf')
  local count = redis.call('ZCARD', KEYS[1])
  if count >= rate then
    local leaves = redis.call('ZRANGE', KEYS[1], count - rate, count - rate, 'WITHSCORES')
    return {'rate', text(tonumber(leaves[2]) + MINUTE - now)}
  end
  redis.call('ZADD', KEYS[1], text(now), ARGV[3])
  redis.call('PEXPIRE', KEYS[1], MINUTE / 1000)
end
if open > 0 then
  redis.call('ZADD', KEYS[2], text(now + lasts), ARGV[3])
  redis.call('PEXPIRE', KEYS[2], math.ceil(lasts / 1000))
end
return {'in', '0'}
