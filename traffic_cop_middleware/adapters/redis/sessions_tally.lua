-- Count what happened. KEYS [1] the hash of the counts; ARGV name, how often, of each.
for i = 1, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
end
