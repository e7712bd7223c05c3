-- One of three steps on the budget of a policy's day. Redis runs a script as one step, so that what a fleet reserves at
-- once never adds up to more than the day has.
-- KEYS: sums of the day, reservations that are open, the flag of a policy that was killed.
-- ARGV: step, id of the reservation, three amounts, three limits, seconds that the day is kept.
local names = {'calls', 'tokens', 'cost_micros'}

if ARGV[1] == 'reserve' then
  local killed = redis.call('GET', KEYS[3])
  if killed then return {'killed', killed, 0} end
  if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return {'reserved', '', 0} end
  for i, name in ipairs(names) do
    local used = tonumber(redis.call('HGET', KEYS[1], name) or 0)
    local held = tonumber(redis.call('HGET', KEYS[1], 'held_' .. name) or 0)
    local asked, limit = tonumber(ARGV[2 + i]), tonumber(ARGV[5 + i])
    if used + held + asked > limit then
      return {'spent', name, used + asked > limit and 1 or 0}
    end
  end
  for i, name in ipairs(names) do redis.call('HINCRBY', KEYS[1], 'held_' .. name, ARGV[2 + i]) end
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
  redis.call('EXPIRE', KEYS[1], ARGV[9])
  redis.call('EXPIRE', KEYS[2], ARGV[9])
  return {'reserved', '', 0}
end

-- Settled twice counts once: whoever heard no answer settles again.
local held = redis.call('HGET', KEYS[2], ARGV[2])
if not held then return {'settled', '', 0} end
redis.call('HDEL', KEYS[2], ARGV[2])
local i = 0
for amount in string.gmatch(held, '%d+') do
  i = i + 1
  redis.call('HINCRBY', KEYS[1], 'held_' .. names[i], string.format('%.0f', 0 - tonumber(amount)))
  redis.call('HINCRBY', KEYS[1], names[i], ARGV[2 + i])
end
return {'settled', '', 0}
